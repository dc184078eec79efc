package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The keys of a volume with the content of a git repository.
const (
	ParamSource     = "source"
	ParamURL        = "url"
	ParamRef        = "ref"
	ParamPeriod     = "period"
	ParamDepth      = "depth"
	ParamSubPath    = "subPath"
	ParamSignalFile = "signalFile"
)

// sourceGit is the only value of ParamSource.
const sourceGit = "git"

const (
	defaultGitRef    = "HEAD"
	defaultGitPeriod = time.Minute
	defaultGitDepth  = 1
	// maxGitPeriod is a year.
	maxGitPeriod = 8760 * time.Hour
	maxGitDepth  = 1_000_000
	// maxFileName is NAME_MAX.
	maxFileName = 255
	// GitCommitFile is the file beside the tree that says which commit it is.
	GitCommitFile = ".hostpath-commit"
)

// GitSource says which content of which repository a volume shows. It is a value: two volumes with
// equal sources show the same.
type GitSource struct {
	URL GitURL
	// Ref is a branch, a tag, a full name (refs/…) or the digits of a commit.
	Ref string
	// Period is the time between two questions to the server; 0: never again.
	Period time.Duration
	// Depth is how many commits of the history are fetched.
	Depth int64
	// SubPath is the directory of the tree that is shown; empty: the root.
	SubPath string
	// SignalFile is the name of a file beside the tree that is written again after each change; empty:
	// none.
	SignalFile string
	// SizeBytes is how large the content may be. A class does not say it: the claim does.
	SizeBytes int64
}

// IsNone says that the volume has no content of git.
func (g GitSource) IsNone() bool { return g.URL == GitURL{} }

// HasGit says whether the attributes of a publish ask for content of git.
func HasGit(attributes map[string]string) bool { return attributes[ParamSource] == sourceGit }

// IsReference says whether the attributes of a publish, and not the volume's ID, say what it shows.
func IsReference(attributes map[string]string) bool {
	return HasPath(attributes) || HasGit(attributes)
}

// IsReference says that a volume of the class is its attributes: no pool has a volume of that name.
func (p *Parameters) IsReference() bool { return p.Path != "" || !p.Git.IsNone() }

// GitKeys lists the keys that a volume with content of git may have. A class has no size.
func GitKeys() []string {
	return []string{
		ParamDepth,
		ParamPeriod,
		ParamPool,
		ParamRef,
		ParamSignalFile,
		ParamSize,
		ParamSource,
		ParamSubPath,
		ParamURL,
	}
}

// ClassKeys lists the keys that an operator may set in a StorageClass, of any kind.
func ClassKeys() []string {
	keys := slices.DeleteFunc(GitKeys(), func(key string) bool { return key == ParamSize })
	keys = append(keys, ParameterKeys()...)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// gitSetters has one entry for each key of a class.
func gitSetters() map[string]setter {
	return map[string]setter{
		ParamSource:       func(_ *Parameters, v string) error { return checkSource(v) },
		ParamPool:         func(p *Parameters, v string) error { p.Pool = v; return nil },
		ParamURL:          gitSetter(ParseGitURL, func(g *GitSource) *GitURL { return &g.URL }),
		ParamRef:          gitSetter(parseRef, func(g *GitSource) *string { return &g.Ref }),
		ParamPeriod:       gitSetter(parsePeriod, func(g *GitSource) *time.Duration { return &g.Period }),
		ParamDepth:        gitSetter(parseDepth, func(g *GitSource) *int64 { return &g.Depth }),
		ParamSubPath:      gitSetter(parseSubPath, func(g *GitSource) *string { return &g.SubPath }),
		ParamSignalFile:   gitSetter(parseSignal, func(g *GitSource) *string { return &g.SignalFile }),
		ParamPVCName:      func(p *Parameters, v string) error { p.Owner.Claim = v; return nil },
		ParamPVCNamespace: func(p *Parameters, v string) error { p.Owner.Namespace = v; return nil },
		ParamPVName:       func(p *Parameters, v string) error { p.Owner.PV = v; return nil },
	}
}

// gitSetter parses a value into a field.
func gitSetter[T any](parse func(string) (T, error), field func(*GitSource) *T) setter {
	return func(p *Parameters, v string) (err error) {
		*field(&p.Git), err = parse(v)
		return err
	}
}

// hasSource says whether the keys are those of content from elsewhere.
func hasSource(params map[string]string) bool {
	_, given := params[ParamSource]
	return given
}

// setGit reads the keys of content of git. Without parseSize there is no size. Errors: ErrInvalid,
// naming the key.
func (p *Parameters) setGit(
	params map[string]string, parseSize func(string) (int64, error),
) error {
	setters, known := gitSetters(), GitKeys()
	if parseSize == nil {
		known = slices.DeleteFunc(known, func(key string) bool { return key == ParamSize })
	} else {
		setters[ParamSize] = func(p *Parameters, v string) (err error) {
			p.Git.SizeBytes, err = parsePositive(v, parseSize)
			return err
		}
	}
	p.Git = GitSource{Ref: defaultGitRef, Period: defaultGitPeriod, Depth: defaultGitDepth}
	p.Spec = Spec{Type: DirectoryOrCreate, Mode: defaultDirectoryMode}
	if err := p.set(setters, params, known); err != nil {
		return err
	}
	switch {
	case p.Git.IsNone():
		return fmt.Errorf("%w: parameter %q is %s: that needs %q, such as https://git.example.com/team/site",
			ErrInvalid, ParamSource, sourceGit, ParamURL)
	case p.Git.SignalFile == p.Git.URL.Repository():
		return fmt.Errorf("%w: parameter %q is %q, which is the name of the repository's directory",
			ErrInvalid, ParamSignalFile, p.Git.SignalFile)
	}
	return nil
}

// CheckSize refuses content whose size nobody has said. Errors: ErrInvalid.
func (g GitSource) CheckSize() error {
	if g.SizeBytes > 0 {
		return nil
	}
	return fmt.Errorf("%w: attribute %q is %s: that needs %q, such as 1Gi", ErrInvalid, ParamSource,
		sourceGit, ParamSize)
}

// digest is what an ID says of the source. The size is the claim's.
func (g GitSource) digest() []byte {
	return fmt.Appendf(nil, "git %q %q %d %d %q %q", g.URL.String(), g.Ref, g.Period, g.Depth,
		g.SubPath, g.SignalFile)
}

func checkSource(s string) error {
	if s != sourceGit {
		return fmt.Errorf("want %s", sourceGit)
	}
	return nil
}

// parseRef takes what git itself would take as a name (git-check-ref-format(1)), or HEAD, or a
// commit.
func parseRef(s string) (string, error) {
	isBad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`~^:?*[\`, r) }
	if len(s) > maxFileName || strings.ContainsFunc(s, isBad) || strings.Contains(s, "..") ||
		strings.Contains(s, "@{") || strings.HasPrefix(s, "-") || strings.HasSuffix(s, ".") {
		return "", fmt.Errorf("want a branch, a tag or a commit, such as main, of at most %d bytes",
			maxFileName)
	}
	for part := range strings.SplitSeq(s, "/") {
		if s != "" && (part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")) {
			return "", fmt.Errorf("want a branch, a tag or a commit, such as main")
		}
	}
	return cmp.Or(s, defaultGitRef), nil
}

func parsePeriod(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxGitPeriod || d != 0 && d < time.Second {
		return 0, fmt.Errorf("want a duration with a unit, 1s to %v, such as 5m, or 0 for never again",
			maxGitPeriod)
	}
	return d, nil
}

func parseDepth(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > maxGitDepth {
		return 0, fmt.Errorf("want a number from 1 to %d", maxGitDepth)
	}
	return n, nil
}

// parseSubPath takes a clean path below the root of the tree.
func parseSubPath(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	for part := range strings.SplitSeq(s, "/") {
		if !isFileName(part) || strings.EqualFold(part, ".git") {
			return "", fmt.Errorf("want the path of a directory in the repository, without a slash at its " +
				"beginning or end, \".\", \"..\" or \".git\"")
		}
	}
	if len(s) > maxPathBytes {
		return "", fmt.Errorf("want a path of at most %d bytes", maxPathBytes)
	}
	return s, nil
}

// parseSignal takes the name of a file that nothing else has.
func parseSignal(s string) (string, error) {
	if s != "" && (!isFileName(s) || s == GitCommitFile) {
		return "", fmt.Errorf("want the name of a file, of at most %d bytes, and not %s", maxFileName,
			GitCommitFile)
	}
	return s, nil
}

// isFileName says whether a text is one component of a path, without control characters.
func isFileName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxFileName &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return r == '/' || r < ' ' || r == 0x7f || r == utf8.RuneError
		})
}

// gitAttributes are those of a reference that CreateVolume answers with: what the class says, and
// the size that the claim has asked for.
func gitAttributes(class map[string]string, sizeBytes int64) map[string]string {
	attributes := maps.Clone(class)
	maps.DeleteFunc(attributes,
		func(key, _ string) bool { return !slices.Contains(GitKeys(), key) })
	attributes[ParamSize] = strconv.FormatInt(sizeBytes, 10)
	return attributes
}

// ReferenceAttributes are the attributes of the volume of a class that IsReference.
func (p *Parameters) ReferenceAttributes(
	class map[string]string, sizeBytes int64,
) map[string]string {
	if !p.Git.IsNone() {
		return gitAttributes(class, sizeBytes)
	}
	attributes := maps.Clone(class)
	maps.DeleteFunc(attributes,
		func(key, _ string) bool { return !slices.Contains(ParameterKeys(), key) })
	return attributes
}
