//nolint:lll // a request is read as it is sent, in one line
package main

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	driverName    = "hostpath.csi.local"
	finalizer     = "external-provisioner.volume.kubernetes.io/finalizer"
	selectedNode  = "volume.kubernetes.io/selected-node"
	provisionerOf = "volume.kubernetes.io/storage-provisioner"
	claimUID      = "11111111-1111-4111-8111-111111111111"

	volumes    = "/api/v1/persistentvolumes"
	claims     = "/api/v1/namespaces/default/persistentvolumeclaims"
	events     = "/api/v1/namespaces/default/events"
	leases     = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
	capacities = "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities"
	contents   = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"
	groupPath  = "/apis/groupsnapshot.storage.k8s.io/v1/volumegroupsnapshotcontents"
	ownSecret  = "/api/v1/namespaces/default/secrets/" + authority
)

// owner, label and foreignFinalizer are what others act upon, such as the garbage collector.
const (
	owner = `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
		"name": "x", "uid": "` + claimUID + `"}]}}`
	label            = `{"metadata": {"labels": {"x": "y"}}}`
	foreignFinalizer = `{"metadata": {"finalizers": ["example.com/kept"]}}`
)

// try is one request with the controller's token. A PATCH is a merge patch; what is posted is an
// object.
type try struct {
	method, path, body string
	// want is part of the refusal; "" is for what the controller and its sidecars do.
	want string
}

// policed is an API server with the chart's policies, and the controller's token.
type policed struct {
	t     *testing.T
	admin *kubernetes.Clientset
	its   rest.Interface
	pod   *core.Pod
}

func newPoliced(t *testing.T) *policed {
	t.Helper()
	server := apiserver.ForTest(t, "validatingadmissionpolicy-status-controller")
	applyChart(t, server, "central", "snapshotter.enabled=true", "snapshotController.enabled=true",
		"snapshotController.crds=true", "snapshotter.groupSnapshots=true",
		"config.gitSources[0].urlPrefix=https://git.example.com/", "config.gitSources[0].maxSize=1Mi")
	p := &policed{t: t}
	var err error
	p.admin, err = server.Admin()
	fixture.Must(t, err)
	p.pod, err = apiserver.CreatePod(t.Context(), p.admin, "controller-1", nodeName, controllerAccount)
	fixture.Must(t, err)
	config, err := server.PodConfig(t.Context(), p.pod)
	fixture.Must(t, err)
	client, err := kubernetes.NewForConfig(config)
	fixture.Must(t, err)
	p.its = client.CoreV1().RESTClient()
	return p
}

// create creates an object as the administrator.
func (p *policed) create(path, object string) {
	p.t.Helper()
	fixture.Eventually(p.t, "an object is created at "+path, func() bool {
		err := send(p.t, p.admin.CoreV1().RESTClient(), try{method: http.MethodPost, path: path, body: object})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
}

// setStatus is what other controllers do.
func (p *policed) patchStatus(path, patch string) {
	p.t.Helper()
	fixture.Must(p.t, send(p.t, p.admin.CoreV1().RESTClient(),
		try{method: http.MethodPatch, path: path + "/status", body: patch}))
}

// send sends a request.
func send(t *testing.T, client rest.Interface, a try) error {
	t.Helper()
	return newRequest(client, a).Do(t.Context()).Error()
}

// attempt sends a request with the controller's token, and nothing is done.
func (p *policed) attempt(a try) error {
	p.t.Helper()
	return newRequest(p.its, a).Param("dryRun", metav1.DryRunAll).Do(p.t.Context()).Error()
}

func newRequest(client rest.Interface, a try) *rest.Request {
	request := client.Verb(a.method).SetHeader("Content-Type", "application/json")
	if a.method == http.MethodPatch {
		request = client.Patch(types.MergePatchType)
	}
	return request.AbsPath(a.path).Body([]byte(a.body))
}

func newVolume(name, driver string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": %q, "finalizers": [%q],
		"annotations": {"pv.kubernetes.io/provisioned-by": %q}},
		"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"},
		"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "new", "uid": %q},
		"csi": {"driver": %q, "volumeHandle": "0123456789ab-x"}, "mountOptions": ["noatime"],
		"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
		[{"key": "topology.hostpath.csi.local/node", "operator": "In", "values": ["node-1"]}]}]}},
		"persistentVolumeReclaimPolicy": "Delete", "storageClassName": "csi-hostpath", "volumeMode": "Filesystem"}}`,
		name, finalizer, driver, claimUID, driver)
}

func newClaim(name, annotations, more string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": {"name": %q, "annotations": {%s}}, "spec": {"accessModes": ["ReadWriteOnce"],
		"resources": {"requests": {"storage": "2Mi"}}, "storageClassName": "csi-hostpath"%s}}`, name, annotations, more)
}

func newEvent(component, kind string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
		"involvedObject": {"apiVersion": "v1", "kind": %q, "namespace": "default", "name": "x"},
		"reason": "NodeGone", "message": "x", "type": "Warning", "count": 1, "source": {"component": %q},
		"reportingComponent": %q}`, kind, component, component)
}

func newLease(name, holder string) string {
	return fmt.Sprintf(`{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": %q},
		"spec": {"holderIdentity": %q, "leaseDurationSeconds": 60}}`, name, holder)
}

func newRoom(managedBy string) string {
	return fmt.Sprintf(`{"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
		"metadata": {"generateName": "csisc-",
		"labels": {"csi.storage.k8s.io/drivername": "hostpath.csi.local", "csi.storage.k8s.io/managed-by": %q},
		"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": %q, "uid": %q}]},
		"nodeTopology": {"matchLabels": {"topology.hostpath.csi.local/node": "node-1"}},
		"storageClassName": "csi-hostpath", "capacity": "1Gi"}`, managedBy, controllerAccount, claimUID)
}

func newContent(name, driver string) string {
	return fmt.Sprintf(`{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
		"metadata": {"name": %q}, "spec": {"deletionPolicy": "Delete", "driver": %q,
		"source": {"volumeHandle": "0123456789ab-x"}, "volumeSnapshotRef": {"name": "s", "namespace": "default"}}}`,
		name, driver)
}

func newGroup(name, driver string) string {
	return fmt.Sprintf(`{"apiVersion": "groupsnapshot.storage.k8s.io/v1", "kind": "VolumeGroupSnapshotContent",
		"metadata": {"name": %q}, "spec": {"deletionPolicy": "Delete", "driver": %q,
		"source": {"volumeHandles": ["0123456789ab-x"]}, "volumeGroupSnapshotRef": {"name": "g", "namespace": "default"}}}`,
		name, driver)
}

// populate makes what the tries are about.
func (p *policed) populate() {
	p.t.Helper()
	own := fmt.Sprintf("%q: %q", provisionerOf, driverName)
	p.create(volumes, newVolume("ours", driverName))
	p.create(volumes, newVolume("theirs", "ebs.csi.aws.com"))
	p.create(claims, newClaim("ours", own, ""))
	p.create(claims, newClaim("bound", own, `, "volumeName": "ours"`))
	p.create(claims, newClaim("theirs", fmt.Sprintf("%q: %q", provisionerOf, "ebs.csi.aws.com"), ""))
	p.create(claims, newClaim("copy", "", `, "dataSource": {"kind": "PersistentVolumeClaim", "name": "ours"}`))
	p.patchStatus(claims+"/bound", `{"status": {"phase": "Bound", "capacity": {"storage": "1Mi"}}}`)
	p.create(capacities, strings.Replace(newRoom("external-provisioner"), `"generateName": "csisc-"`, `"name": "ours"`, 1))
	p.create(capacities, strings.ReplaceAll(strings.Replace(newRoom("external-provisioner"), `"generateName": "csisc-"`,
		`"name": "theirs"`, 1), `"hostpath.csi.local"`, `"ebs.csi.aws.com"`))
	p.create(events, strings.Replace(newEvent("kubelet", "Pod"), `"name": "e"`, `"name": "kubelets"`, 1))
	p.create(leases, newLease("hostpath-csi-local", ""))
	p.create(contents, newContent("ours", driverName))
	p.create(contents, newContent("theirs", "ebs.csi.aws.com"))
	p.create(groupPath, newGroup("ours", driverName))
	p.create(groupPath, newGroup("theirs", "ebs.csi.aws.com"))
	// The name is that of the pod of another replica.
	p.create(leases, newLease("external-resizer-hostpath-csi-local", "controller-2"))
}

// TestPoliciesBoundTheControllersToken tries, for each right to change, what the controller and its
// sidecars do, and what whoever takes them over could want.
func TestPoliciesBoundTheControllersToken(t *testing.T) {
	p := newPoliced(t)
	p.populate()
	fixture.Eventually(t, "the API server has the policies", func() bool {
		for _, first := range []try{
			{http.MethodPatch, volumes + "/theirs", label, ""},
			{http.MethodPatch, claims + "/theirs", label, ""},
			{http.MethodPatch, claims + "/theirs/status", label, ""},
			{http.MethodPost, events, newEvent("kubelet", "Pod"), ""},
			{http.MethodPatch, contents + "/theirs", label, ""},
			{http.MethodPatch, groupPath + "/theirs", label, ""},
			{http.MethodPost, leases, newLease("x", ""), ""},
			{http.MethodPost, capacities, newRoom("x"), ""},
			{http.MethodPut, ownSecret, p.secret(label), ""},
		} {
			if err := p.attempt(first); err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
				t.Logf("%s %s: %v", first.method, first.path, err)
				return false
			}
		}
		return true
	})
	tries := map[string]map[string]try{
		"volumes": p.volumeTries(), "claims": p.claimTries(), "growth": p.growthTries(),
		"events": p.eventTries(), "leases": p.leaseTries(), "capacities": p.capacityTries(),
		"snapshots": p.contentTries(), "group snapshots": p.groupTries(), "authority": p.authorityTries(),
	}
	for name, list := range tries {
		for what, a := range list {
			err := p.attempt(a)
			switch {
			case a.want == "" && err != nil:
				t.Errorf("%s, %s: %v; it must be possible", name, what, err)
			case a.want != "" && (err == nil || !strings.Contains(err.Error(), a.want)):
				t.Errorf("%s, %s: %v; want a refusal that says %q", name, what, err, a.want)
			}
		}
	}
	p.checkTypes()
}

// metadataTries are changes of what every object has.
func metadataTries(path, want string) map[string]try {
	return map[string]try{
		"an owner":            {http.MethodPatch, path, owner, want},
		"a label":             {http.MethodPatch, path, label, want},
		"a foreign finalizer": {http.MethodPatch, path, foreignFinalizer, want},
		"an annotation":       {http.MethodPatch, path, `{"metadata": {"annotations": {"example.com/x": "y"}}}`, want},
	}
}

func (p *policed) volumeTries() map[string]try {
	const ours = "may only change volumes of hostpath.csi.local"
	const only = "of a volume only the size"
	post := func(change, want string) try {
		return try{http.MethodPost, volumes, fixture.Merged(p.t, newVolume("pvc-"+claimUID, driverName), change), want}
	}
	patch := func(change, want string) try { return try{http.MethodPatch, volumes + "/ours", change, want} }
	git := func(csi, want string) try {
		return post(`{"spec": {"nodeAffinity": null,
			"csi": {"volumeAttributes": {"source": "git"}`+csi+`}}}`, want)
	}
	tries := metadataTries(volumes+"/ours", only)
	maps.Copy(tries, map[string]try{
		"create, content of git, of no node": git(``, ""),
		"create, content of git, with a secret of the claim's namespace": git(
			`, "nodePublishSecretRef": {"name": "a", "namespace": "default"}`, ""),
		"create, content of git, with a secret of another namespace": git(
			`, "nodePublishSecretRef": {"name": "a", "namespace": "kube-system"}`,
			"no reference to a secret"),
		"create, content of git, with a secret for staging": git(
			`, "nodeStageSecretRef": {"name": "a", "namespace": "default"}`, "no reference to a secret"),
		"create, content of git, of a node by name": post(`{"spec": {
			"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields":
				[{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]}},
			"csi": {"volumeAttributes": {"source": "git"}}}}`, "must be of one node"),
		"create":                      post(`{}`, ""),
		"create, class of attributes": post(`{"spec": {"volumeAttributesClassName": "gold"}}`, ""),
		"create, of another driver":   post(`{"spec": {"csi": {"driver": "ebs.csi.aws.com"}}}`, ours),
		"create, a path of the node":  post(`{"spec": {"csi": null, "hostPath": {"path": "/"}}}`, ours),
		"create, of no node":          post(`{"spec": {"nodeAffinity": null}}`, "must be of one node"),
		"create, with a secret": post(`{"spec": {"csi": {"nodePublishSecretRef": {"name": "a",
			"namespace": "default"}}}}`, "no reference to a secret"),
		"create, under another name":  post(`{"metadata": {"name": "mine"}}`, "must have the name"),
		"create, for no claim":        post(`{"spec": {"claimRef": null}}`, "must have the name"),
		"create, with a mount option": post(`{"spec": {"mountOptions": ["suid"]}}`, "no mount option"),
		"create, with an owner":       post(owner, "no label, owner"),
		"larger": patch(`{"spec": {"capacity": {"storage": "2Mi"}}, "metadata":
			{"annotations": {"volume.alpha.kubernetes.io/pre-resize-capacity": "1Mi"}}}`, ""),
		"another class of attributes": patch(`{"spec": {"volumeAttributesClassName": "gold"}}`, ""),
		"the node is gone": patch(`{"metadata": {"annotations":
			{"hostpath.csi.local/node-gone-since": "2026-11-28T12:00:00Z"}}}`, ""),
		"no finalizer":           patch(`{"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}}`, ""),
		"smaller":                patch(`{"spec": {"capacity": {"storage": "1Ki"}}}`, only),
		"another claim":          patch(`{"spec": {"claimRef": {"name": "mine"}}}`, only),
		"another reclaim policy": patch(`{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}`, only),
		"a mount option":         patch(`{"spec": {"mountOptions": ["ro"]}}`, only),
		"another provisioner": patch(`{"metadata": {"annotations":
			{"pv.kubernetes.io/provisioned-by": "x"}}}`, only),
		"delete":                       {http.MethodDelete, volumes + "/ours", "", ""},
		"delete, of another driver":    {http.MethodDelete, volumes + "/theirs", "", ours},
		"no finalizer, another driver": {http.MethodPatch, volumes + "/theirs", `{"metadata": {"finalizers": null}}`, ours},
	})
	return tries
}

func (p *policed) claimTries() map[string]try {
	const ours = "may only mark claims of hostpath.csi.local"
	const only = "of a claim only the finalizer"
	on := func(claim, want string) try {
		return try{http.MethodPatch, claims + "/" + claim, `{"metadata": {"annotations":
			{"` + selectedNode + `": "node-1"}}}`, want}
	}
	tries := metadataTries(claims+"/ours", only)
	maps.Copy(tries, map[string]try{
		"a node":                     on("ours", ""),
		"the node of the source":     on("copy", ""),
		"a node of a bound claim":    on("bound", only),
		"a node of another driver's": on("theirs", ours),
		"keep the source of a clone": {http.MethodPatch, claims + "/bound", `{"metadata":
			{"finalizers": ["kubernetes.io/pvc-protection",
			"provisioner.storage.kubernetes.io/cloning-protection"]}}`, ""},
		"a larger size": {http.MethodPatch, claims + "/bound", `{"spec": {"resources":
			{"requests": {"storage": "1Gi"}}}}`, only},
		"a volume": {http.MethodPatch, claims + "/ours", `{"spec": {"volumeName": "mine"}}`, only},
		"another provisioner": {http.MethodPatch, claims + "/ours", `{"metadata":
			{"annotations": {"` + provisionerOf + `": "x"}}}`, only},
		"delete":                       {http.MethodDelete, claims + "/bound", "", ""},
		"delete, of another driver":    {http.MethodDelete, claims + "/theirs", "", ours},
		"delete, that has a source":    {http.MethodDelete, claims + "/copy", "", ours},
		"no finalizer, another driver": {http.MethodPatch, claims + "/theirs", `{"metadata": {"finalizers": null}}`, ours},
	})
	return tries
}

func (p *policed) growthTries() map[string]try {
	const only = "of a claim only how far it has grown"
	patch := func(claim, change, want string) try {
		return try{http.MethodPatch, claims + "/" + claim + "/status", `{"status": ` + change + `}`, want}
	}
	tries := metadataTries(claims+"/bound/status", only)
	maps.Copy(tries, map[string]try{
		"grows": patch("bound", `{"allocatedResources": {"storage": "2Mi"},
			"allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}, "conditions":
			[{"type": "Resizing", "status": "True"}]}`, ""),
		"has grown": patch("bound", `{"capacity": {"storage": "2Mi"}}`, ""),
		"is modified": patch("bound", `{"modifyVolumeStatus": {"status": "InProgress",
			"targetVolumeAttributesClassName": "gold"}, "conditions": [{"type": "ModifyingVolume",
			"status": "True"}]}`, ""),
		"has been modified":   patch("bound", `{"currentVolumeAttributesClassName": "gold"}`, ""),
		"shrinks":             patch("bound", `{"capacity": {"storage": "1Ki"}}`, only),
		"more than it wants":  patch("bound", `{"allocatedResources": {"storage": "1Ti"}}`, only),
		"lost":                patch("bound", `{"phase": "Lost"}`, only),
		"a foreign condition": patch("bound", `{"conditions": [{"type": "Mine", "status": "True"}]}`, only),
		"another access mode": patch("bound", `{"accessModes": ["ReadWriteMany"]}`, only),
		"of another driver": patch("theirs", `{"capacity": {"storage": "2Mi"}}`,
			"may only mark claims of hostpath.csi.local"),
	})
	return tries
}

func (p *policed) eventTries() map[string]try {
	const own = "may only report events of the controller and its sidecars"
	post := func(component, kind, want string) try {
		return try{http.MethodPost, events, newEvent(component, kind), want}
	}
	return map[string]try{
		"of the controller":      post(controllerName, "PersistentVolumeClaim", ""),
		"of a pod":               post(controllerName, "Pod", ""),
		"of the provisioner":     post("hostpath.csi.local_controller-1_"+claimUID, "PersistentVolumeClaim", ""),
		"of the resizer":         post("external-resizer hostpath.csi.local", "PersistentVolumeClaim", ""),
		"of the snapshotter":     post("csi-snapshotter hostpath.csi.local", "VolumeSnapshotContent", ""),
		"of a group snapshot":    post("csi-snapshotter hostpath.csi.local", "VolumeGroupSnapshotContent", ""),
		"of an election":         post("external-resizer-hostpath-csi-local/controller-1", "Lease", ""),
		"of kubelet":             post("kubelet", "Pod", own),
		"of the scheduler":       post("default-scheduler", "Pod", own),
		"of another pod":         post("hostpath.csi.local_controller-2_"+claimUID, "PersistentVolumeClaim", own),
		"of the provisioner's":   post("hostpath.csi.local/controller-1", "Lease", ""),
		"of the snapshotter's":   post("external-snapshotter-leader-hostpath.csi.local/controller-1", "Lease", ""),
		"of another pod's lease": post("external-resizer-hostpath-csi-local/controller-2", "Lease", own),
		"about a node":           post(controllerName, "Node", "only report events of volumes, claims"),
		"change kubelet's":       {http.MethodPatch, events + "/kubelets", `{"count": 2}`, own},
		"with an owner": {http.MethodPost, events, fixture.Merged(p.t,
			newEvent(controllerName, "Pod"), owner), "a new event may have no label"},
		"delete, which it may not": {http.MethodDelete, events + "/kubelets", "", "forbidden"},
	}
}

func (p *policed) leaseTries() map[string]try {
	const pod = "may only take the lease for that pod"
	put := func(name, change, want string) try {
		object := newLease(name, "controller-1")
		return try{http.MethodPut, leases + "/" + name, p.withVersion(leases+"/"+name,
			fixture.Merged(p.t, object, change)), want}
	}
	held := func(holder string) string { return `{"spec": {"holderIdentity": "` + holder + `"}}` }
	return map[string]try{
		"as a sidecar":                   put("hostpath-csi-local", `{}`, ""),
		"as the controller":              put("hostpath-csi-local", held(identityOf(p.pod)), ""),
		"give it back":                   put("external-resizer-hostpath-csi-local", held(""), ""),
		"for another pod":                put("hostpath-csi-local", held("controller-2"), pod),
		"for a pod whose name begins so": put("hostpath-csi-local", held("controller-12_x"), pod),
		"for a year":                     put("hostpath-csi-local", `{"spec": {"leaseDurationSeconds": 31536000}}`, pod),
		"with an owner":                  put("hostpath-csi-local", owner, "only its holder may be changed"),
		"create":                         {http.MethodPost, leases, newLease(leaseOf(driverName), "controller-1"), ""},
		"create another": {
			http.MethodPost, leases, newLease("mine", "controller-1"),
			"may only have the leases",
		},
		"create with an owner": {http.MethodPost, leases, fixture.Merged(p.t,
			newLease(leaseOf(driverName), "controller-1"), owner), "a new lease may have no"},
		"create one of a node, elsewhere": {http.MethodPost, strings.Replace(leases, "default",
			"kube-node-lease", 1), newLease("node-1", "x"), "forbidden"},
	}
}

func (p *policed) capacityTries() map[string]try {
	const ours = "may only say what room hostpath.csi.local has"
	const only = "of capacity only the sizes and the owner"
	post := func(change, want string) try {
		return try{http.MethodPost, capacities, fixture.Merged(p.t, newRoom("external-provisioner"), change), want}
	}
	put := func(change, want string) try {
		path := capacities + "/ours"
		return try{http.MethodPut, path, fixture.Merged(p.t, p.get(path), change), want}
	}
	return map[string]try{
		"create": post(`{}`, ""),
		"create, of another driver": post(`{"metadata": {"labels":
			{"csi.storage.k8s.io/drivername": "ebs.csi.aws.com"}}}`, ours),
		"create, as a node's": post(`{"metadata": {"labels":
			{"csi.storage.k8s.io/managed-by": "external-provisioner-node-1"}}}`, "may have no metadata"),
		"create, of all nodes": post(`{"nodeTopology": {"matchLabels": {"kubernetes.io/os":
			"linux"}}}`, "must be of one node"),
		"create, of another owner":  post(owner, "only the Deployment"),
		"the size":                  put(`{"capacity": "2Gi"}`, ""),
		"a label":                   put(label, only),
		"delete":                    {http.MethodDelete, capacities + "/ours", "", ""},
		"delete, of another driver": {http.MethodDelete, capacities + "/theirs", "", ours},
		"delete, in another namespace": {http.MethodDelete, strings.Replace(capacities, "default",
			"kube-system", 1) + "/x", "", "forbidden"},
		"the finalizers of what it has": put(foreignFinalizer, only),
	}
}

func (p *policed) contentTries() map[string]try {
	const ours = "may only say how snapshots of hostpath.csi.local fare"
	const only = "of a snapshot only its state"
	patch := func(path, change, want string) try { return try{http.MethodPatch, contents + path, change, want} }
	tries := metadataTries(contents+"/ours", only)
	maps.Copy(tries, map[string]try{
		"is being created": patch("/ours", `{"metadata": {"annotations":
			{"snapshot.storage.kubernetes.io/volumesnapshot-being-created": "yes"}}}`, ""),
		"its node is gone": patch("/ours", `{"metadata": {"annotations":
			{"hostpath.csi.local/node-gone-since": "x", "hostpath.csi.local/node": "n"}}}`, ""),
		"its finalizer": patch("/ours", `{"metadata": {"finalizers":
			["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"]}}`, ""),
		"is ready": patch("/ours/status", `{"status": {"snapshotHandle":
			"0123456789ab-s-x", "readyToUse": true}}`, ""),
		"another policy":        patch("/ours", `{"spec": {"deletionPolicy": "Retain"}}`, only),
		"another snapshot":      patch("/ours", `{"spec": {"volumeSnapshotRef": {"name": "mine"}}}`, only),
		"of another driver":     patch("/theirs", `{"metadata": {"finalizers": null}}`, ours),
		"ready, another driver": patch("/theirs/status", `{"status": {"readyToUse": true}}`, ours),
	})
	return tries
}

func (p *policed) groupTries() map[string]try {
	const ours = "may only say how snapshots of hostpath.csi.local fare"
	const only = "of a group snapshot only its state"
	patch := func(path, change, want string) try { return try{http.MethodPatch, groupPath + path, change, want} }
	tries := metadataTries(groupPath+"/ours", only)
	maps.Copy(tries, map[string]try{
		"is being created": patch("/ours", `{"metadata": {"annotations":
			{"groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-created": "yes"}}}`, ""),
		"its finalizer": patch("/ours", `{"metadata": {"finalizers":
			["groupsnapshot.storage.kubernetes.io/volumegroupsnapshotcontent-bound-protection"]}}`, ""),
		"is ready": patch("/ours/status", `{"status": {"volumeGroupSnapshotHandle": "x",
			"readyToUse": true, "volumeSnapshotInfoList": [{"volumeHandle": "0123456789ab-x",
			"snapshotHandle": "0123456789ab-s-x"}]}}`, ""),
		"another policy":        patch("/ours", `{"spec": {"deletionPolicy": "Retain"}}`, only),
		"of another driver":     patch("/theirs", `{"metadata": {"finalizers": null}}`, ours),
		"ready, another driver": patch("/theirs/status", `{"status": {"readyToUse": true}}`, ours),
	})
	return tries
}

func (p *policed) authorityTries() map[string]try {
	const only = "of its authority the controller may only change the data"
	put := func(change, want string) try { return try{http.MethodPut, ownSecret, p.secret(change), want} }
	return map[string]try{
		"the CA":      put(`{"data": {"ca": "eA=="}}`, ""),
		"an owner":    put(owner, only),
		"a label":     put(label, only),
		"a finalizer": put(foreignFinalizer, only),
		"for ever":    put(`{"immutable": true}`, only),
	}
}

// secret is the controller's own, with a change.
func (p *policed) secret(change string) string {
	p.t.Helper()
	return fixture.Merged(p.t, p.get(ownSecret), change)
}

// get is an object as the API server has it.
func (p *policed) get(path string) string {
	p.t.Helper()
	object, err := p.admin.CoreV1().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json").Do(p.t.Context()).Raw()
	fixture.Must(p.t, err)
	return string(object)
}

// withVersion gives an object the metadata that the API server has, with its own changes.
func (p *policed) withVersion(path, object string) string {
	p.t.Helper()
	return fixture.Merged(p.t, p.get(path), object)
}

// checkTypes waits until the API server has checked the policies' expressions against the types of
// the objects. It reports a misspelt field only in a policy's status.
func (p *policed) checkTypes() {
	p.t.Helper()
	fixture.Eventually(p.t, "the policies are checked", func() bool {
		list, err := p.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(p.t.Context(),
			metav1.ListOptions{})
		fixture.Must(p.t, err)
		for i := range list.Items {
			checked := list.Items[i].Status.TypeChecking
			if checked == nil {
				return false
			}
			for _, w := range checked.ExpressionWarnings {
				p.t.Errorf("policy %s: %s: %s", list.Items[i].Name, w.FieldRef, w.Warning)
			}
		}
		return len(list.Items) > 0
	})
}
