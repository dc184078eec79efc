package remedy

import (
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Condition is what docs/health.md says about something that is wrong with a volume, a pool or a
// node.
type Condition struct {
	// What it is, and what to do.
	What, Do string
}

// Conditions are the conditions of the document, by their reason in CamelCase.
type Conditions map[string]Condition

// ReadConditions reads the table of the document that has five columns.
func ReadConditions(document string) Conditions {
	conditions := Conditions{}
	for line := range strings.Lines(document) {
		cells := cellsOf(strings.TrimSpace(line))
		if len(cells) != 5 {
			continue
		}
		for _, match := range quoted.FindAllStringSubmatch(cells[0], -1) {
			conditions[match[1]] = Condition{What: plain(cells[3]), Do: plain(cells[4])}
		}
	}
	return conditions
}

// otherNames are the conditions whose name does not follow from the word of the driver.
var otherNames = map[volume.Reason]string{
	volume.ReasonDiskFailed:     "DiskFailed",
	volume.ReasonHangs:          "DiskHangs",
	volume.ReasonOther:          "PoolUnusable",
	volume.ReasonMayNotMount:    "DriverMayNotMount",
	volume.ReasonKubeletAbsent:  "KubeletDirectoryAbsent",
	volume.ReasonKubeletHangs:   "KubeletDirectoryHangs",
	volume.ReasonKubeletLink:    "KubeletDirectoryLink",
	volume.ReasonKubeletPrivate: "KubeletDirectoryPrivate",
}

// OfReason is the condition of a pool or a node that cannot be used.
func (c Conditions) OfReason(r volume.Reason) (Condition, bool) {
	name, ok := otherNames[r]
	if !ok {
		name = "Pool" + camel(string(r))
	}
	found, ok := c[name]
	return found, ok
}

// OfFault is the condition of a volume.
func (c Conditions) OfFault(f volume.Fault) (Condition, bool) {
	name := camel(string(f))
	if f == volume.FaultHangs || f == volume.FaultReadOnly {
		name = "Filesystem" + name
	}
	found, ok := c[name]
	return found, ok
}

// camel writes a word with underscores in CamelCase.
func camel(word string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(word, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
