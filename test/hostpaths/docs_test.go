package hostpaths

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each attack in the threat model names the tests that show its defence, and these tests exist.
func TestEveryThreatNamesTestsThatExist(t *testing.T) {
	tests := testsOfTheProject(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	threats := threatsOf(readDoc(t, "security.md"))
	for threat, shownBy := range threats {
		found := named.FindAllStringSubmatch(shownBy, -1)
		if len(found) == 0 {
			t.Errorf("no test for %s", threat)
		}
		for _, match := range found {
			if !tests[match[1]] {
				t.Errorf("the test %s does not exist; docs/security.md names it for %s", match[1], threat)
			}
		}
	}
	if len(threats) < 50 {
		t.Errorf("%d threats: the test looks at the wrong tables", len(threats))
	}
}

// threatsOf reads all tables whose third column is "Shown by". It returns that column by the first
// column.
func threatsOf(text string) map[string]string {
	threats, inTable := map[string]string{}, false
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) != 5:
			inTable = false
		case strings.TrimSpace(cells[3]) == "Shown by":
			inTable = true
		case inTable && !strings.HasPrefix(cells[1], "---"):
			threats[cells[1]] = cells[3]
		}
	}
	return threats
}

func testsOfTheProject(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path) //nolint:gosec // our own source
		for _, match := range function.FindAllSubmatch(source, -1) {
			names[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The driver accepts the attributes and parameters in the examples of the document.
func TestExamplesOfHostPathsAreTaken(t *testing.T) {
	blocks := regexp.MustCompile(
		"(?ms)^```yaml\n(.*?)^```$",
	).FindAllStringSubmatch(readDoc(t, "host-paths.md"), -1)
	checked := 0
	for _, block := range blocks {
		for decoder := yaml.NewDecoder(bytes.NewReader([]byte(block[1]))); ; {
			var doc any
			err := decoder.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			checked += checkExamples(t, doc, "")
		}
	}
	if checked < 5 {
		t.Errorf("only %d examples were checked", checked)
	}
}

// checkExamples finds the attributes of volumes and the parameters of classes in an example, checks
// them, and returns their number.
func checkExamples(t *testing.T, value any, kind string) (checked int) {
	t.Helper()
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			checked += checkExamples(t, item, kind)
		}
	case map[string]any:
		if k, ok := value["kind"].(string); ok {
			kind = k
		}
		for key, below := range value {
			if key != "volumeAttributes" && key != "parameters" {
				checked += checkExamples(t, below, kind)
				continue
			}
			checked++
			if err := parseExample(below, kind); err != nil {
				t.Errorf("%s of a %s: %v", key, kind, err)
			}
		}
	}
	return checked
}

func parseExample(value any, kind string) error {
	attributes := map[string]string{}
	all, ok := value.(map[string]any)
	for key, v := range all {
		text, isString := v.(string)
		ok = ok && isString
		attributes[key] = text
	}
	if !ok {
		return errors.New("a value is no string: Kubernetes refuses it")
	}
	if kind == "StorageClass" {
		_, err := volume.ParseParameters(attributes)
		return err
	}
	if kind == "Pod" {
		attributes[volume.AttrEphemeral] = "true"
	}
	_, err := volume.ParseAttributes(attributes, quantity.Parse)
	return err
}
