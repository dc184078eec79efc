package main

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
)

// The tests below compare docs/configuration.md with the code, and run the document's examples.

const fileHeader = "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n"

// row is a row of one of the document's tables.
type row struct{ kind, unit, def, meaning, example string }

func document(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// section is the part of the document below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(document(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no %q in the document", heading)
	}
	text, _, _ := strings.Cut(rest, "\n#")
	return text
}

var code = regexp.MustCompile("`([^`]*)`")

// table returns the rows of a section's table, by the name in the first column. If a cell has
// several names, the last one counts.
func table(t *testing.T, heading string) map[string]row {
	t.Helper()
	rows := map[string]row{}
	for line := range strings.Lines(section(t, heading)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 6 || !strings.Contains(cells[0], "`") {
			continue
		}
		if len(cells) != 6 {
			t.Errorf("%d cells in %s", len(cells), line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
			if cells[i] == "" {
				t.Errorf("an empty cell in %s", line)
			}
		}
		names := code.FindAllStringSubmatch(cells[0], -1)
		name := names[len(names)-1][1]
		if _, twice := rows[name]; twice {
			t.Errorf("%s is in the table twice", name)
		}
		rows[name] = row{cells[1], cells[2], cells[3], cells[4], strings.Trim(cells[5], "`")}
	}
	return rows
}

// shown returns a default in the form of the document.
func shown(def string) string {
	if def == "" || def == "[]" || def == "{ }" {
		return "none"
	}
	return "`" + def + "`"
}

func subcommand(t *testing.T, name string) *cobra.Command {
	t.Helper()
	cmd, _, err := program{}.rootCommand().Find([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	cmd.InitDefaultHelpFlag()
	return cmd
}

func TestDocumentHasEveryFlagWithItsTypeAndDefault(t *testing.T) {
	types := map[string]string{
		"string":      "string",
		"duration":    "duration",
		"bool":        "boolean",
		"stringArray": "string, repeatable",
		"Level":       "integer",
		"moduleSpec":  "string",
		"uint32":      "integer",
	}
	for _, name := range []string{"serve", "check-config"} {
		rows := table(t, "## Flags")
		subcommand(t, name).Flags().VisitAll(func(f *pflag.Flag) {
			got, ok := rows["--"+f.Name]
			delete(rows, "--"+f.Name)
			want := shown(f.DefValue)
			if f.Name == "node-name" { // its default comes from the environment of the process
				want = "`$NODE_NAME`, else the host's name"
			}
			if !ok || got.kind != types[f.Value.Type()] || got.def != want {
				t.Errorf("%s --%s: the document says %+v, want type %q and default %s", name, f.Name, got,
					types[f.Value.Type()], want)
			}
		})
		for flag := range rows {
			t.Errorf("%s has no flag %s", name, flag)
		}
	}
}

func TestDocumentHasEveryFieldWithItsTypeAndDefault(t *testing.T) {
	rows := table(t, "## The file")
	for _, name := range []string{"apiVersion", "kind"} {
		if got := rows[name]; got.kind != "string" || got.def != "required" {
			t.Errorf("%s: the document says %+v", name, got)
		}
		delete(rows, name)
	}
	compare(t, rows, config.Default(), nil)
	compare(t, table(t, "### A pool"), config.NewPool("", ""), []string{"name", "path"})
	compare(t, table(t, "### I/O limits"), config.IOLimits{}, nil)
	compare(t, table(t, "### A host path"), config.HostPath{}, []string{"path"})
	compare(t, table(t, "### A git source"), config.NewGitSource(), []string{"urlPrefix", "maxSize"})
}

// compare checks rows against the fields of a struct that holds its defaults.
func compare(t *testing.T, rows map[string]row, defaults any, required []string) {
	t.Helper()
	types := map[reflect.Type]string{
		reflect.TypeFor[string]():             "string",
		reflect.TypeFor[bool]():               "boolean",
		reflect.TypeFor[float64]():            "number",
		reflect.TypeFor[int64]():              "integer",
		reflect.TypeFor[time.Duration]():      "duration",
		reflect.TypeFor[[]config.Pool]():      "list of pools",
		reflect.TypeFor[[]config.HostPath]():  "list of host paths",
		reflect.TypeFor[[]config.GitSource](): "list of git sources",
		reflect.TypeFor[[]string]():           "list of strings",
		reflect.TypeFor[config.IOLimits]():    "I/O limits",
	}
	v := reflect.ValueOf(defaults)
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		kind, def := types[v.Field(i).Type()], shown(fmt.Sprint(v.Field(i).Interface()))
		if tag.Get("unit") == "bytes" {
			kind = "quantity"
		}
		if slices.Contains(required, name) {
			def = "required"
		}
		if got := rows[name]; got.kind != kind || got.def != def {
			t.Errorf("%s: the document says %+v, want type %q and default %s", name, got, kind, def)
		}
		if got := rows[name]; tag.Get("unit") == "bytes" && got.unit != "bytes" {
			t.Errorf("%s: the document says unit %s", name, got.unit)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("there is no field %s", name)
	}
}

func TestExamplesOfFlagsWork(t *testing.T) {
	rows := table(t, "## Flags")
	t.Chdir(t.TempDir())
	write(t, "driver.yaml", fileHeader)
	for name, r := range rows {
		args := []string{"check-config", "--node-name=n", r.example}
		if name != "--pool" {
			args = append(args, "--pool=a=/data/a")
		}
		for other := range rows { // those are given together or not at all
			if strings.HasPrefix(name, "--controller-") && strings.HasPrefix(other, "--controller-") {
				args = append(args, rows[other].example)
			}
		}
		if !strings.HasPrefix(r.example, name) {
			t.Errorf("%s: its example is %s", name, r.example)
		}
		if code, _, stderr := call(nil, args...); code != command.ExitOK {
			t.Errorf("%s: exit %d: %s", r.example, code, stderr)
		}
	}
}

func TestExamplesOfFieldsWork(t *testing.T) {
	file, pool, hostPath := table(t,
		"## The file"), table(t, "### A pool"), table(t, "### A host path")
	t.Chdir(t.TempDir())
	for name, r := range file {
		var content strings.Builder
		content.WriteString(r.example + "\n")
		for line := range strings.Lines(fileHeader + "pools: [{name: a, path: /data/a}]\n") {
			if !strings.HasPrefix(line, name+":") {
				content.WriteString(line)
			}
		}
		checkExample(t, name, r.example, content.String())
	}
	for name, r := range pool {
		checkExample(t, name, r.example,
			fileHeader+item("pools", name, r.example, "name: a", "path: /data/a"))
	}
	for name, r := range hostPath {
		checkExample(
			t,
			name,
			r.example,
			fileHeader+"pools: [{name: a, path: /data/a}]\n"+item(
				"hostPaths",
				name,
				r.example,
				"path: /srv/a",
			),
		)
	}
}

// item returns a list of one mapping, which has a field's example and the other required fields.
func item(list, name, example string, required ...string) string {
	var text strings.Builder
	text.WriteString(list + ":\n- " + example + "\n")
	for _, line := range required {
		if !strings.HasPrefix(line, name+":") {
			text.WriteString("  " + line + "\n")
		}
	}
	return text.String()
}

func checkExample(t *testing.T, name, example, content string) {
	t.Helper()
	if !strings.HasPrefix(example, name+": ") {
		t.Errorf("%s: its example is %s", name, example)
	}
	write(t, "driver.yaml", content)
	if code, _, stderr := call(
		nil,
		"check-config",
		"--node-name=n",
		"--config=driver.yaml",
	); code != command.ExitOK {
		t.Errorf("%s: exit %d: %s", example, code, stderr)
	}
}

// Every yaml block of the document becomes driver.yaml. The commands in the console blocks after it
// are run, and must print what the blocks show.
func TestWhatTheDocumentShowsIsWhatHappens(t *testing.T) {
	blocks := regexp.MustCompile(
		"(?ms)^```([a-z]+)\n(.*?)^```$",
	).FindAllStringSubmatch(document(t), -1)
	t.Chdir(t.TempDir())
	ran := 0
	for _, block := range blocks {
		if block[1] == "yaml" {
			write(t, "driver.yaml", block[2])
			continue
		}
		first, want, _ := strings.Cut(block[2], "\n")
		args, ok := strings.CutPrefix(first, "$ csi-hostpath ")
		if block[1] != "console" || !ok {
			t.Fatalf("a block that nobody can run:\n%s", block[0])
		}
		_, stdout, stderr := call(nil, strings.Fields(args)...)
		if got := stdout + stderr; got != want {
			t.Errorf("%s prints\n%swant\n%s", first, got, want)
		}
		ran++
	}
	if ran < 3 {
		t.Errorf("only %d of the document's commands were run", ran)
	}
}
