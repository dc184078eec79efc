package main

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// documented are the flags of a command, with their defaults, in docs/configuration.md.
func documented(t *testing.T, command string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Flags of the controller\n")
	section, _, _ = strings.Cut(section, "\n## ")
	flags, code := map[string]string{}, regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || command == "place" && !strings.Contains(cells[2], "✓") &&
			!strings.Contains(cells[2], "only") ||
			command == "serve" && strings.Contains(cells[2], "only") {
			continue
		}
		defaults := code.FindAllStringSubmatch(cells[3], -1)
		for i, name := range code.FindAllStringSubmatch(cells[1], -1) {
			if long, ok := strings.CutPrefix(name[1], "--"); ok {
				flags[long] = ""
				if i < len(defaults) {
					flags[long] = defaults[i][1]
				}
			}
		}
	}
	return flags
}

func TestDocumentHasEveryFlagWithItsDefault(t *testing.T) {
	t.Setenv("NAMESPACE", "$NAMESPACE")
	for _, name := range []string{"serve", "place"} {
		cmd, _, err := rootCommand().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		cmd.InitDefaultHelpFlag()
		want := map[string]string{}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			switch f.Name {
			case "logging-format", "v", "vmodule", "version", "help": // as the driver's
				want[f.Name] = ""
			default:
				want[f.Name] = f.DefValue
			}
		})
		if got := documented(t, name); !maps.Equal(got, want) {
			t.Errorf("%s: the document has\n%v\nthe command\n%v", name, got, want)
		}
	}
}
