// Package dashboards reads what the chart asks Prometheus: the queries of its dashboards for
// Grafana and of its rules. `make test-dashboards` asks a Prometheus that watches a real cluster.
package dashboards

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	chart = "deploy/helm/csi-hostpath"
	files = chart + "/files/dashboards/*.json"
	rules = chart + "/templates/prometheusrule.yaml"
)

// Dashboard is what tests look at in a dashboard of Grafana.
type Dashboard struct {
	// File is the name of its file, and Text what the file holds.
	File string `json:"-"`
	Text string `json:"-"`

	UID         string   `json:"uid"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Tags        []string `json:"tags"`
	Templating  struct {
		List []Variable `json:"list"`
	} `json:"templating"`
	Panels []Panel `json:"panels"`
}

// Variable is what the person who looks at a dashboard chooses.
type Variable struct {
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	Query      string     `json:"query"`
	Datasource Datasource `json:"datasource"`
}

// Datasource is where a query goes.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is one picture.
type Panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  Datasource `json:"datasource"`
	GridPos     Place      `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []Target `json:"targets"`
}

// Place is where a panel is, on a grid that is 24 wide.
type Place struct {
	X int `json:"x"`
	Y int `json:"y"`
	W int `json:"w"`
	H int `json:"h"`
}

// Target is a query of a panel.
type Target struct {
	RefID string `json:"refId"`
	Expr  string `json:"expr"`
}

// Load reads the chart's dashboards. Root is the directory of the repository.
func Load(t testing.TB, root string) (all []Dashboard) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, files))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d dashboards: %v", len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d := Dashboard{File: filepath.Base(path), Text: string(text)}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, d)
	}
	return all
}

var (
	quoted     = regexp.MustCompile(`"(\\.|[^"\\])*"`)
	selectors  = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]`)
	labelLists = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)`)
	// A word that is followed by "(" is a function.
	words    = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_:]*\b *\(?`)
	duration = regexp.MustCompile(`\b[0-9][0-9a-z.]*`)
)

// Metrics are the names of metrics in a query of Prometheus.
func Metrics(expr string) (names []string) {
	for _, strip := range []*regexp.Regexp{quoted, selectors, labelLists, duration} {
		expr = strip.ReplaceAllString(expr, " ")
	}
	for _, word := range words.FindAllString(expr, -1) {
		switch name := strings.TrimSpace(word); {
		case strings.HasSuffix(name, "("),
			slices.Contains([]string{"and", "or", "unless", "offset", "bool"}, name):
		default:
			names = append(names, name)
		}
	}
	return names
}

var ownMetric = regexp.MustCompile(`\bcsi_hostpath_[a-z0-9_]+`)

// Own are the names of the driver's own metrics, with one of the prefixes, that the chart's
// dashboards and rules have.
func Own(t testing.TB, root string, prefixes ...string) (names []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, rules))
	if err != nil {
		t.Fatal(err)
	}
	all := ownMetric.FindAllString(string(text), -1)
	for _, d := range Load(t, root) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				all = append(all, Metrics(target.Expr)...)
			}
		}
	}
	for _, name := range all {
		has := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if slices.ContainsFunc(prefixes, has) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("neither dashboards nor rules have a metric %s…", strings.Join(prefixes, "… or "))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var descriptor = regexp.MustCompile(`fqName: "([^"]*)"`)

// Missing are those of the names that the collector does not export. A collector is a registry,
// too.
func Missing(from prometheus.Collector, names []string) (missing []string) {
	descriptors := make(chan *prometheus.Desc)
	go func() {
		from.Describe(descriptors)
		close(descriptors)
	}()
	exported := map[string]bool{}
	for d := range descriptors {
		for _, match := range descriptor.FindAllStringSubmatch(d.String(), -1) {
			for _, part := range []string{"", "_bucket", "_count", "_sum"} { // of a histogram
				exported[match[1]+part] = true
			}
		}
	}
	for _, name := range names {
		if !exported[name] {
			missing = append(missing, fmt.Sprintf("%q", name))
		}
	}
	return missing
}
