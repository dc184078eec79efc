package remedy

import (
	"os"
	"regexp"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/docs"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// words are the values of the constants of a type in a file of pkg/volume.
func words(t *testing.T, file, typeName string) (values []string) {
	t.Helper()
	source, err := os.ReadFile("../../volume/" + file)
	if err != nil {
		t.Fatal(err)
	}
	constant := regexp.MustCompile(`(?m)^\t\w+\s+` + typeName + `\s+= "(\w+)"`)
	for _, match := range constant.FindAllStringSubmatch(string(source), -1) {
		values = append(values, match[1])
	}
	if len(values) == 0 {
		t.Fatalf("%s has no constants of type %s", file, typeName)
	}
	return values
}

func TestEveryReasonAndFaultHasARemedy(t *testing.T) {
	conditions := ReadConditions(docs.Health)
	for _, word := range words(t, "reason.go", "Reason") {
		if word == string(volume.ReasonOpening) {
			continue // it ends by itself
		}
		if c, ok := conditions.OfReason(volume.Reason(word)); !ok || c.Do == "" {
			t.Errorf("docs/health.md says nothing about the reason %s", word)
		}
	}
	for _, word := range words(t, "fault.go", "Fault") {
		if c, ok := conditions.OfFault(volume.Fault(word)); !ok || c.Do == "" {
			t.Errorf("docs/health.md says nothing about the fault %s", word)
		}
	}
}
