package volume

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The schemes of a GitURL, with their ports.
const (
	SchemeHTTPS = "https"
	SchemeSSH   = "ssh"
	SchemeHTTP  = "http"
)

const (
	// maxURLBytes is more than any server takes.
	maxURLBytes = 2048
	maxHost     = 253
)

// GitURL is where a repository is. Two texts that mean the same repository are one value: scheme
// and host are in lower case, the scheme's own port is left out. The zero GitURL is none;
// ParseGitURL and ParseGitPrefix make the only others.
//
//nolint:recvcheck // it is a value; only its parser sets fields
type GitURL struct {
	scheme string
	user   string // of ssh
	host   string // with the port, unless it is the scheme's own
	path   string // begins with a slash
}

// ParseGitURL takes https, ssh and http. What two programs could read in two ways is refused, and
// not cleaned: an operator's rule is compared with the result. Errors: those say what is wanted,
// for a caller that names the key.
func ParseGitURL(s string) (GitURL, error) {
	u, err := parseGitURL(s)
	if err != nil {
		return GitURL{}, err
	}
	if name := u.Repository(); !isFileName(name) || name == GitCommitFile ||
		strings.EqualFold(name, ".git") {
		return GitURL{}, fmt.Errorf("want a path that ends with the name of the repository, such as " +
			"https://git.example.com/team/site.git")
	}
	return u, nil
}

// ParseGitPrefix reads the prefix of a rule: a whole URL, or one whose path ends with a slash and
// that is above others. A prefix names no user.
func ParseGitPrefix(s string) (GitURL, error) {
	whole, isAbove := strings.CutSuffix(s, "/")
	if !isAbove {
		u, err := ParseGitURL(s)
		if err == nil && u.user != "" {
			err = fmt.Errorf("want no user: a rule holds for every user")
		}
		return u, err
	}
	u, err := parseGitURL(whole)
	if err == nil && u.user != "" {
		err = fmt.Errorf("want no user: a rule holds for every user")
	}
	u.path += "/"
	return u, err
}

func parseGitURL(s string) (GitURL, error) {
	if len(s) > maxURLBytes || strings.ContainsFunc(s, isNoGitURLRune) {
		return GitURL{}, fmt.Errorf("want a URL of at most %d printable ASCII characters without "+
			"\"%%\", \"?\", \"#\", \";\" and \"\\\"", maxURLBytes)
	}
	parsed, err := url.Parse(s)
	if err != nil || parsed.Opaque != "" || parsed.Host == "" {
		// The text of err has the URL, and with it what a user may have written as a password.
		return GitURL{}, fmt.Errorf("want https://host/path, or ssh://git@host/path")
	}
	u := GitURL{scheme: parsed.Scheme, path: parsed.Path}
	if err := u.setUser(parsed.User); err != nil {
		return GitURL{}, err
	}
	if err := u.setHost(parsed); err != nil {
		return GitURL{}, err
	}
	return u, u.checkPath()
}

// isNoGitURLRune: what follows a semicolon is a parameter of its segment (RFC 3986, section 3.3).
// Servers in Java drop it and then read "..;" as "..".
func isNoGitURLRune(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("%?#;\\\"<>^`{|}", r)
}

// setUser takes a name for ssh, and nothing else: what is in a URL is no secret.
func (u *GitURL) setUser(user *url.Userinfo) error {
	if user == nil {
		return nil
	}
	_, hasPassword := user.Password()
	name := user.Username()
	if u.scheme != SchemeSSH || hasPassword || name == "" || name[0] == '-' ||
		strings.ContainsFunc(name, func(r rune) bool { return !isURLWord(r) }) {
		return fmt.Errorf("want no user and no password in the URL, but for the user of ssh: they belong " +
			"in a Secret")
	}
	u.user = name
	return nil
}

// WithoutPassword is what a message may quote of a text that should be a URL: it has "…" for what
// may be a user and a password, or a query with a token.
func WithoutPassword(s string) string {
	if before, _, has := strings.Cut(s, "?"); has {
		s = before + "?…"
	}
	end := strings.LastIndexByte(s, '@')
	if end < 0 {
		return s
	}
	begin := 0
	if scheme := strings.Index(s[:end], "://"); scheme >= 0 {
		begin = scheme + len("://")
	}
	return s[:begin] + "…" + s[end:]
}

func isURLWord(r rune) bool {
	return r == '.' || r == '_' || r == '-' ||
		r < 0x80 && isAlphanumeric(byte(r)) // #nosec G115 -- ASCII
}

func (u *GitURL) setHost(parsed *url.URL) error {
	ports := map[string]uint64{SchemeHTTPS: 443, SchemeSSH: 22, SchemeHTTP: 80}
	own, known := ports[u.scheme]
	if !known {
		return fmt.Errorf("want https or ssh, or http where a rule allows it")
	}
	host := strings.ToLower(parsed.Hostname())
	if address, err := netip.ParseAddr(host); err == nil && address.Zone() == "" {
		host = address.String()
		if address.Is6() {
			host = "[" + host + "]"
		}
	} else if err := checkHost(host); err != nil {
		return err
	}
	u.host = host
	if strings.HasSuffix(parsed.Host, ":") {
		return fmt.Errorf("want a port after the colon")
	}
	if parsed.Port() == "" {
		return nil
	}
	port, err := strconv.ParseUint(parsed.Port(), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("want a port of 1 to 65535")
	}
	if port != own {
		u.host += ":" + strconv.FormatUint(port, 10)
	}
	return nil
}

// checkHost takes the name of a host. Numbers that some resolvers read as an address, as 127.1 or
// 0x7f000001, are no names: their last part begins with a digit (RFC 3696, section 2).
func checkHost(host string) error {
	parts := strings.Split(host, ".")
	for _, part := range parts {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' ||
			strings.ContainsFunc(part, func(r rune) bool { return r == '.' || !isURLWord(r) }) {
			return fmt.Errorf("want the name of a host, or its address")
		}
	}
	if last := parts[len(parts)-1]; len(host) > maxHost || last[0] >= '0' && last[0] <= '9' {
		return fmt.Errorf("want the name of a host, or its address")
	}
	return nil
}

// checkPath wants one way to write it: no empty segments, no "." and "..".
func (u *GitURL) checkPath() error {
	if u.path == "" {
		return nil // ParseGitURL refuses it, a prefix may be a whole host
	}
	for part := range strings.SplitSeq(u.path[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("want a path without \".\", \"..\", repeated slashes or a slash at its end")
		}
	}
	return nil
}

// String is the one way to write the URL. It has no secret.
func (u GitURL) String() string {
	if u == (GitURL{}) {
		return ""
	}
	user := ""
	if u.user != "" {
		user = u.user + "@"
	}
	return u.scheme + "://" + user + u.host + u.path
}

// WithoutUser is the URL without the user of SSH.
func (u GitURL) WithoutUser() GitURL {
	u.user = ""
	return u
}

// Host is the server, with its port if that is not the scheme's own.
func (u GitURL) Host() string { return u.host }

// IsSSH says whether the repository is reached over SSH.
func (u GitURL) IsSSH() bool { return u.scheme == SchemeSSH }

// Repository is the last segment of the path, without .git: what git clone calls the directory.
func (u GitURL) Repository() string {
	return strings.TrimSuffix(u.path[strings.LastIndexByte(u.path, '/')+1:], ".git")
}

// Covers says whether a prefix is the URL, or is above it.
func (u GitURL) Covers(other GitURL) bool {
	if u.scheme != other.scheme || u.host != other.host {
		return false
	}
	if strings.HasSuffix(u.path, "/") {
		return strings.HasPrefix(other.path, u.path)
	}
	return u.path == other.path
}
