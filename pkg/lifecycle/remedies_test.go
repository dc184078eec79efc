package lifecycle

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// remedies has for the reason of each event what its message says about what to do: one of these.
var remedies = map[string][]string{
	reasonPodCannotFollow: {"Let the pod run on node "},
	// The error of the driver, which has its own remedy.
	reasonClaimFailed:  {"could not be created: "},
	reasonKeptForClone: {"let them get bound, or delete those that nobody needs."},
	reasonNodeNotReady: {"Bring the node back. If it is lost for ever, give the data up: "},
	reasonBeingCopied:  {"Nothing is wrong: "},
	reasonNoNode:       {"Set the label "},
	reasonGone: {
		"Bring the node back", "To give the data up, delete the claim",
		"bring the node back. To give it up",
	},
	reasonReleased: {"has to be made by hand."},
	reasonReturned: {"is back, with this volume."},
	// pkg/health has the remedies.
	reasonUnhealthy: {": "},
	reasonHealthy:   {"Nothing is known to be wrong"},
	reasonNodeGone:  {"Bring that node back, or delete this claim"},
	reasonRefused:   {"Make room on node "},
	reasonCannotGrow: {
		"Set the annotation, and the claim grows within minutes: kubectl ",
	},
	reasonNotEnforced: {
		"put the pool on a filesystem with quotas, or use a class",
	},
}

// checkRemedies looks at all events that a test has seen.
func (w *world) checkRemedies() {
	w.Helper()
	w.recorder.mu.Lock()
	defer w.recorder.mu.Unlock()
	for _, e := range w.recorder.events {
		_, rest, _ := strings.Cut(e, ": ")
		reason, message, _ := strings.Cut(rest, ": ")
		w.checkRemedy(reason, message)
	}
	sent, err := w.client.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for i := range sent.Items {
		if e := &sent.Items[i]; e.Reason != provisioningFailed { // external-provisioner's
			w.checkRemedy(e.Reason, e.Message)
		}
	}
}

func (w *world) checkRemedy(reason, message string) {
	w.Helper()
	has := func(remedy string) bool { return strings.Contains(message, remedy) }
	if !slices.ContainsFunc(remedies[reason], has) {
		w.Errorf("event %s does not say what to do: %s", reason, message)
	}
}

// Whoever sees an event looks for its reason in the documents.
func TestReasonOfEveryEventIsKnownAndDocumented(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var docs strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(text)
	}
	reasons := constantsNamed(t, "reason")
	if len(reasons) != len(remedies) {
		t.Errorf("%d reasons, and %d have a remedy", len(reasons), len(remedies))
	}
	for _, reason := range reasons {
		if remedies[reason] == nil {
			t.Errorf("%s: what is its remedy?", reason)
		}
		if !strings.Contains(docs.String(), "`"+reason+"`") {
			t.Errorf("no document has `%s`", reason)
		}
	}
}

// constantsNamed are the values of this package's constants whose names begin so.
func constantsNamed(t *testing.T, prefix string) (values []string) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
					continue
				}
				if literal, ok := spec.Values[i].(*ast.BasicLit); ok {
					value, err := strconv.Unquote(literal.Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, value)
				}
			}
			return true
		})
	}
	return values
}
