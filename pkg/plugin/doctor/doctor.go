// Package doctor finds out what is wrong with the driver in a cluster, and with its claims: what
// docs/troubleshooting.md tells people to look at. The checks are functions of Facts.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/docs"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/remedy"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "OK"
	Unknown Severity = "UNKNOWN" // the user may not see what the check needs
	Warning Severity = "WARNING"
	Error   Severity = "ERROR"
)

// Finding is the result of a check, or one of several.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is a word for the check, Subject what was found: "claim shop/books", or empty.
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"`
	Message string `json:"message"`
	// Remedy is what to do, and Reference where the documents say more.
	Remedy    string `json:"remedy,omitempty"`
	Reference string `json:"reference,omitempty"`
}

// Facts are what the checks look at. A list that the user may not read is empty, and NotShown names
// it.
type Facts struct {
	Now          time.Time
	Installation *objects.Installation
	NotShown     []string

	Drivers        []*storage.CSIDriver
	Nodes          []*core.Node
	CSINodes       []*storage.CSINode
	DriverPods     []*core.Pod
	ControllerPods []*core.Pod
	Leases         []*coordination.Lease // of the driver's namespace
	Classes        []*storage.StorageClass
	Capacities     []*storage.CSIStorageCapacity
	Volumes        []*core.PersistentVolume

	// Of the namespaces that were asked for.
	Claims          []*core.PersistentVolumeClaim
	Pods            []*core.Pod
	ClaimEvents     []*core.Event
	PodEvents       []*core.Event
	VolumeEvents    []*core.Event
	Snapshots       []*unstructured.Unstructured
	SnapshotContent []*unstructured.Unstructured
	SnapshotClasses []*unstructured.Unstructured
	SnapshotAPI     bool
	// AllNamespaces says that the lists above are of all namespaces.
	AllNamespaces bool

	// Data is what the status API says; nil: DataError says why there is none.
	Data      *Data
	DataError error
	// NodeFaults has, for drivers that are not ready, the reasons that they give for their node.
	NodeFaults map[string][]string
}

// Data is what the status API says.
type Data struct {
	Nodes     []status.Node
	Pools     []status.Pool
	Volumes   []status.Volume
	Snapshots []status.Snapshot
	Missing   []status.Missing
}

// MayList says whether the user may list a kind of objects.
func (f *Facts) MayList(kind string) bool {
	return !slices.ContainsFunc(f.NotShown, func(line string) bool {
		return len(line) > len(kind) && line[:len(kind)+1] == kind+" "
	})
}

// examination is what the checks share.
type examination struct {
	*Facts

	index      *claims.Index
	book       remedy.Book
	conditions remedy.Conditions
	nodeNames  map[string]string
	down       map[string]bool // the names of the nodes that are not ready
	findings   []Finding
}

// Examine makes all checks. A check that finds nothing wrong has one finding that says so. The
// order is that of the checks: from the installation to the claims.
func Examine(f *Facts) []Finding {
	e := &examination{
		Facts:      f,
		index:      claims.NewIndex(f.Installation.Driver, f.Volumes, f.Classes, f.Pods),
		book:       remedy.Read(docs.Troubleshooting),
		conditions: remedy.ReadConditions(docs.Health),
		nodeNames:  claims.NodeNames(f.Nodes),
		down:       map[string]bool{},
	}
	for _, n := range f.Nodes {
		e.down[n.Name] = notReadyCondition(n) != nil
	}
	for _, check := range []struct {
		name string
		run  func(*examination) (ok string)
	}{
		{"installation", (*examination).installation},
		{"csidriver", (*examination).csiDriver},
		{"nodes", (*examination).nodes},
		{"driver-pods", (*examination).driverPods},
		{"controller", (*examination).controller},
		{"versions", (*examination).versions},
		{"links", (*examination).links},
		{"pools", (*examination).pools},
		{"sizes", (*examination).sizes},
		{"room", (*examination).room},
		{"purges", (*examination).purges},
		{"health", (*examination).health},
		{"full-volumes", (*examination).fullVolumes},
		{"classes", (*examination).classes},
		{"snapshot-api", (*examination).snapshotAPI},
		{"orphans", (*examination).orphans},
		{"lost-volumes", (*examination).lostVolumes},
		{"lost-snapshots", (*examination).lostSnapshots},
		{"claims", (*examination).claims},
		{"growth", (*examination).growth},
		{"attributes", (*examination).attributes},
		{"pods", (*examination).pods},
		{"snapshots", (*examination).snapshots},
		{"deletions", (*examination).deletions},
	} {
		before := len(e.findings)
		ok := check.run(e)
		if len(e.findings) == before && ok != "" {
			e.add(Finding{Severity: OK, Message: ok})
		}
		for i := before; i < len(e.findings); i++ {
			e.findings[i].Check = check.name
		}
	}
	return e.findings
}

// Worst is the worst severity.
func Worst(findings []Finding) Severity {
	order := []Severity{OK, Unknown, Warning, Error}
	worst := slices.MaxFunc(append([]Finding{{Severity: OK}}, findings...), func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	return worst.Severity
}

// add adds a finding. Messages of programs have several lines.
func (e *examination) add(f Finding) {
	f.Message = strings.Join(strings.Fields(f.Message), " ")
	e.findings = append(e.findings, f)
}

func (e *examination) fault(severity Severity, subject, message, do, reference string) {
	e.add(Finding{
		Severity: severity, Subject: subject, Message: message, Remedy: do, Reference: reference,
	})
}

// unknown says that a check could not be made.
func (e *examination) unknownf(format string, args ...any) {
	e.add(Finding{Severity: Unknown, Message: fmt.Sprintf(format, args...)})
}

// needs says whether the user may list all of these kinds. If not, it adds the finding.
func (e *examination) needs(kinds ...string) bool {
	for _, kind := range kinds {
		if !e.MayList(kind) {
			e.unknownf("you may not list %s", kind)
			return false
		}
	}
	return true
}

// needsData says whether the status API has answered.
func (e *examination) needsData() bool {
	if e.Data == nil {
		e.unknownf("the status API was not asked: %v", e.DataError)
	}
	return e.Data != nil
}

// nodeName is the name of the node with a topology value.
func (e *examination) nodeName(value string) string {
	return cmp.Or(e.nodeNames[value], value)
}

// plural is a number with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
