package main

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// gap is a variable part of a message, as the page writes it.
	gap = regexp.MustCompile(`…|pool\.json|volumes/|code = [A-Za-z]+`)
	// concatenation matches the end of a string that goes on in the next line.
	concatenation = regexp.MustCompile(`" \+\n\s*"`)
)

// notTheDrivers has the messages of docs/troubleshooting.md that come from Kubernetes, its
// sidecars, the kernel and the chart's policies.
var notTheDrivers = []string{
	"3 node(s) did not have enough free storage",
	"AttachVolume.Attach failed … timed out waiting for external-attacher",
	"Input/output error",
	"Disk quota exceeded",
	"No space left on device",
	"Permission denied",
	"Read-only file system",
	"Waiting for a volume to be created …",
	"Waiting for a volume to be created either by the external provisioner 'hostpath.csi.local' or " +
		"manually …",
	"Waiting for user to (re-)start a pod",
	"cannot get resource \"volumesnapshots\"",
	"driver name hostpath.csi.local not found in the list of registered CSI drivers",
	"error getting handle for DataSource …",
	"error saving volume … ValidatingAdmissionPolicy … denied request: …",
	"may only change volumes of that node",
	"may only mark claims of hostpath.csi.local",
	"no persistent volumes available for this claim and no storage class is set",
	"node(s) didn't match PersistentVolume's node affinity",
	"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already " +
		"in-use by another pod",
	"only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc " +
		"must support resize",
	"pod has unbound immediate PersistentVolumeClaims",
	"storageclass.storage.k8s.io \"…\" not found",
	"volume uses the ReadWriteOncePod access mode and is already in use by another pod",
	"volumesnapshotclass.snapshot.storage.k8s.io \"csi-hostpath\" not found",
	"waiting for first consumer to be created before binding",
	"waiting for pod … to be scheduled",
}

// Operators search the documents for the driver's messages. So the documents must quote them
// exactly.
func TestMessagesThatOperatorsLookUpAreTheDriversOwn(t *testing.T) {
	t.Chdir("../..")
	said := sources(t, "pkg")
	_, rest, ok := strings.Cut(read(t, "docs/operations.md"), "\n## What the driver says\n")
	if !ok {
		t.Fatal("the section is gone")
	}
	page, _, _ := strings.Cut(rest, "\n## ")
	checkMessages(t, said, messagesOf(page), 15)
	_, tables, _ := strings.Cut(read(t, "docs/troubleshooting.md"), "\n## ")
	messages := messagesOf(tables)
	for _, other := range notTheDrivers {
		if !slices.Contains(messages, other) {
			t.Errorf("docs/troubleshooting.md does not have %q", other)
		}
	}
	checkMessages(t, said, slices.DeleteFunc(messages, isNotTheDrivers), 30)
	_, rest, ok = strings.Cut(read(t, "docs/git.md"), "\n## What goes wrong\n")
	if !ok {
		t.Fatal("the section on git is gone")
	}
	page, _, _ = strings.Cut(rest, "\n## ")
	checkMessages(t, said, messagesOf(page), 8)
}

func isNotTheDrivers(message string) bool { return slices.Contains(notTheDrivers, message) }

// messagesOf returns the quoted messages in the first cells of a page's tables: code of several
// words that is neither a heading nor a command.
func messagesOf(page string) []string {
	var messages []string
	lines := strings.Split(page, "\n")
	for i, line := range lines {
		isHeading := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|---")
		if !strings.HasPrefix(line, "| ") || isHeading {
			continue
		}
		cells := strings.Split(line, " | ")
		for _, message := range code.FindAllStringSubmatch(cells[0], -1) {
			if strings.Contains(message[1], " ") && !strings.Contains(message[1], "describe") {
				messages = append(messages, message[1])
			}
		}
	}
	return messages
}

// checkMessages looks for every part of the messages in the driver's source. If there are fewer
// messages than least, the test reads the wrong table.
func checkMessages(t *testing.T, said string, messages []string, least int) {
	t.Helper()
	for _, message := range messages {
		for _, part := range gap.Split(message, -1) {
			if part = strings.TrimSpace(part); !strings.Contains(said, part) {
				t.Errorf("no message has %q of %q", part, message)
			}
		}
	}
	if len(messages) < least {
		t.Errorf("%d messages: the test looks at the wrong table", len(messages))
	}
}

// sources returns the text of the Go files below a directory, without tests.
func sources(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(file, ".go") &&
			!strings.HasSuffix(file, "_test.go") {
			text.WriteString(read(t, file))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return concatenation.ReplaceAllString(text.String(), "")
}
