//go:build e2e

//nolint:lll // a request is read as it is sent, in one line
package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// attempt is one request that whoever took over the node "here" sends with the token of its
// driver's pod.
type attempt struct {
	// right is the verb and the resource that RBAC grants, as in "patch persistentvolumes"; what RBAC
	// does not grant has "none".
	right string
	what  string
	// method, path and body are the request's; a PATCH is a merge patch.
	method, path, body string
	// want is part of the refusal; "" is for what the sidecars do and must be able to do.
	want string
}

// leftOver marks attempts that nothing refuses. docs/security.md names them under "What is left".
const leftOver = "left over: "

const (
	topologyKey = "topology." + driverName + "/node"
	leaseName   = "external-resizer-hostpath-csi-local"
	absentUID   = "00000000-0000-4000-8000-000000000000"

	volumesPrefix  = "/api/v1/persistentvolumes/"
	contentsPrefix = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/"
	capacityPrefix = "/apis/storage.k8s.io/v1/namespaces/" + namespace + "/csistoragecapacities"
	leasePrefix    = "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases"

	// sizeBefore is the annotation, in quotes, in which the resizer keeps a volume's size of before it
	// began to grow.
	sizeBefore = `"volume.alpha.kubernetes.io/pre-resize-capacity"`

	volumeFinalizer  = "external-provisioner.volume.kubernetes.io/finalizer"
	cloneFinalizer   = "provisioner.storage.kubernetes.io/cloning-protection"
	contentFinalizer = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	selectedNode     = "volume.kubernetes.io/selected-node"
	provisionerOf    = "volume.kubernetes.io/storage-provisioner"
)

// Parts of the refusals, as the policies and the API server word them.
const (
	onlyThatNode    = "may only change volumes of that node"
	onlyKeeps       = "of a volume of that node may only change the finalizer"
	onlySizes       = "of a volume only the size may be changed"
	onlyThisDriver  = "may only change volumes of " + driverName
	onlyClaimsOf    = "may only mark claims of " + driverName
	onlyMarks       = "of a claim may only take or give back that node"
	onlyItsContents = "may only change snapshots of that node"
	onlyItsRoom     = "may only say what room that node has"
	noNode          = "does not say for which node"
	forbidden       = "forbidden"
)

// takenOver is what the attempts are about: objects of the node that was taken over, and of
// another.
type takenOver struct {
	t           *testing.T
	ns          string
	here, there string
	pod         string // the driver's on the node here
	// asked has what kubectl has said: nothing changes while the attempts are made.
	asked map[string]string
}

// ask is kubectl, once for each question.
func (w *takenOver) ask(args ...string) string {
	w.t.Helper()
	question := strings.Join(args, " ")
	answer, known := w.asked[question]
	if !known {
		answer = kubectl(w.t, args...)
		w.asked[question] = answer
	}
	return answer
}

// raw is an object as the API server has it.
func (w *takenOver) raw(path string) string {
	w.t.Helper()
	return w.ask("get", "--raw", path)
}

// volume is where the API server has a claim's volume.
func (w *takenOver) volume(claim string) string {
	w.t.Helper()
	return volumesPrefix + w.ask("-n", w.ns, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
}

// content is where the API server has what a snapshot is bound to.
func (w *takenOver) content(snapshot string) string {
	w.t.Helper()
	return contentsPrefix + w.ask("-n", w.ns, "get", "volumesnapshot", snapshot, "-o",
		"jsonpath={.status.boundVolumeSnapshotContentName}")
}

// changed is an object as the API server has it, with a merge patch (RFC 7386) applied.
func (w *takenOver) changed(path, patch string) string {
	w.t.Helper()
	return fixture.Merged(w.t, w.raw(path), patch)
}

func annotations(pairs ...string) string {
	m := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return marshal(map[string]any{"metadata": map[string]any{"annotations": m}})
}

// metadataAttempts are merge patches of what every object has, and that others act upon: the
// garbage collector on owners, controllers on finalizers, labels and annotations.
func metadataAttempts() map[string]string {
	return map[string]string{
		"an owner that does not exist": `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "` + absentUID + `"}]}}`,
		"no finalizers":                `{"metadata": {"finalizers": null}}`,
		"a foreign finalizer":          `{"metadata": {"finalizers": ["example.com/kept"]}}`,
		"a label":                      `{"metadata": {"labels": {"x": "y"}}}`,
		"an annotation":                `{"metadata": {"annotations": {"example.com/x": "y"}}}`,
		"the annotation of a secret":   annotations("volume.kubernetes.io/provisioner-deletion-secret-name", "admin"),
	}
}

// newVolume is what external-provisioner creates for a claim.
func (w *takenOver) newVolume(claimNamespace, claim, uid string) string {
	object := map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{
			"name": "pvc-" + uid, "finalizers": []string{volumeFinalizer},
			"annotations": map[string]string{
				"pv.kubernetes.io/provisioned-by":                            driverName,
				"volume.kubernetes.io/provisioner-deletion-secret-name":      "",
				"volume.kubernetes.io/provisioner-deletion-secret-namespace": "",
			},
		},
		"spec": map[string]any{
			"accessModes": []string{"ReadWriteOnce"},
			"capacity":    map[string]string{"storage": "1Mi"},
			"claimRef": map[string]string{
				"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claimNamespace,
				"name": claim, "uid": uid, "resourceVersion": "1",
			},
			"csi": map[string]any{
				"driver": driverName, "fsType": "ext4", "volumeHandle": "0123456789ab-x",
				"volumeAttributes": map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": "x"},
			},
			"mountOptions":                  []string{"noatime"},
			"nodeAffinity":                  affinity(w.here),
			"persistentVolumeReclaimPolicy": "Delete",
			"storageClassName":              "csi-hostpath",
			"volumeMode":                    "Filesystem",
		},
	}
	return marshal(object)
}

// marshal is for what consists of strings, lists and maps.
func marshal(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func affinity(nodes ...string) map[string]any {
	var terms []any
	for _, node := range nodes {
		terms = append(terms, map[string]any{"matchExpressions": []any{
			map[string]any{"key": topologyKey, "operator": "In", "values": []string{node}},
		}})
	}
	return map[string]any{"required": map[string]any{"nodeSelectorTerms": terms}}
}

func spec(fields map[string]any) string {
	return marshal(map[string]any{"spec": fields})
}

// secretReferences are the fields of a CSI PersistentVolume that name a secret
// (CSIPersistentVolumeSource): the node authorizer lets the node's kubelet get what they name.
func secretReferences() []string {
	return []string{
		"controllerPublishSecretRef", "nodeStageSecretRef", "nodePublishSecretRef",
		"controllerExpandSecretRef", "nodeExpandSecretRef",
	}
}

// sourcesInTree are volume sources that kubelet mounts itself, from the node or with a secret.
func sourcesInTree() map[string]string {
	return map[string]string{
		"hostPath":   `{"path": "/"}`,
		"local":      `{"path": "/etc"}`,
		"nfs":        `{"server": "192.0.2.1", "path": "/"}`,
		"iscsi":      `{"targetPortal": "192.0.2.1:3260", "iqn": "iqn.2001-04.com.example:x", "lun": 0, "chapAuthSession": true, "secretRef": {"name": "admin", "namespace": "kube-system"}}`,
		"fc":         `{"wwids": ["3600508b400105e210000900000490000"]}`,
		"flexVolume": `{"driver": "example.com/x", "secretRef": {"name": "admin", "namespace": "kube-system"}}`,
	}
}

func (w *takenOver) createVolumes() (list []attempt) {
	const secretField = "may have no reference to a secret"
	const otherMetadata = "may have no label, owner, annotation or finalizer that external-provisioner"
	const otherField = "may have no field that external-provisioner does not write"
	const otherClaim = "must have the name and the reference of the claim"
	base := w.newVolume(w.ns, "waiting", "11111111-1111-4111-8111-111111111111")
	add := func(what, want, change string) {
		list = append(list, attempt{
			"create persistentvolumes", what, http.MethodPost, volumesPrefix, fixture.Merged(w.t, base, change), want,
		})
	}
	secret := map[string]string{"name": "admin", "namespace": "kube-system"}
	for _, field := range secretReferences() {
		add("with "+field, secretField, spec(map[string]any{"csi": map[string]any{field: secret}}))
	}
	add("read-only", secretField, `{"spec": {"csi": {"readOnly": true}}}`)
	add("of another driver", onlyThisDriver, `{"spec": {"csi": {"driver": "ebs.csi.aws.com"}}}`)
	for source, text := range sourcesInTree() {
		add("with "+source, onlyThisDriver, `{"spec": {"csi": null, "`+source+`": `+text+`}}`)
		add("with "+source+" beside csi", "more than 1 volume type", `{"spec": {"`+source+`": `+text+`}}`)
	}
	add("of another node", onlyThatNode, spec(map[string]any{"nodeAffinity": affinity(w.there)}))
	add("of no node", onlyThatNode, `{"spec": {"nodeAffinity": null}}`)
	add("of another node as well", onlyThatNode,
		spec(map[string]any{"nodeAffinity": affinity(w.here, w.there)}))
	for what, term := range map[string]string{
		"of all nodes but one": `{"matchExpressions": [{"key": "` + topologyKey + `", "operator": "NotIn", "values": ["` + w.here + `"]}]}`,
		"of every node":        `{"matchExpressions": [{"key": "` + topologyKey + `", "operator": "Exists"}]}`,
		"of two nodes":         `{"matchExpressions": [{"key": "` + topologyKey + `", "operator": "In", "values": ["` + w.here + `", "` + w.there + `"]}]}`,
		"of another label":     `{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["` + w.here + `"]}]}`,
		"of a node by field":   `{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["` + w.here + `"]}]}`,
	} {
		add(what, onlyThatNode,
			`{"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [`+term+`]}}}}`)
	}
	add("for a claim of another name than it has", otherClaim,
		`{"spec": {"claimRef": {"uid": "22222222-2222-4222-8222-222222222222"}}}`)
	add("under another name", otherClaim, `{"metadata": {"name": "mine"}}`)
	add("for no claim", otherClaim, `{"spec": {"claimRef": null}}`)
	add("for a claim without a UID", otherClaim, `{"spec": {"claimRef": {"uid": null}}}`)
	add("for something else than a claim", otherClaim, `{"spec": {"claimRef": {"kind": "Pod"}}}`)
	add("for a part of a claim", otherClaim, `{"spec": {"claimRef": {"fieldPath": "spec"}}}`)
	add("with an unknown mount option", "may have no mount option", `{"spec": {"mountOptions": ["suid"]}}`)
	add("with a mount option that is a path", "may have no mount option",
		`{"spec": {"mountOptions": ["noatime", "lowerdir=/etc"]}}`)
	add("with a class of attributes", otherField, `{"spec": {"volumeAttributesClassName": "gold"}}`)
	add("that is recycled", otherField, `{"spec": {"persistentVolumeReclaimPolicy": "Recycle"}}`)
	for what, change := range metadataAttempts() {
		if what != "no finalizers" {
			add("with "+what, otherMetadata, change)
		}
	}
	add("of another provisioner", otherMetadata,
		annotations("pv.kubernetes.io/provisioned-by", "ebs.csi.aws.com"))
	add("migrated to another driver", otherMetadata,
		annotations("pv.kubernetes.io/migrated-to", "ebs.csi.aws.com"))
	add("bound already", otherMetadata, annotations("pv.kubernetes.io/bound-by-controller", "yes"))
	add("with mount options as an annotation", otherMetadata,
		annotations("volume.beta.kubernetes.io/mount-options", "suid"))
	add("as the provisioner does", "", `{}`)
	add("as the provisioner does, without mount options", "", `{"spec": {"mountOptions": null}}`)
	add("as the provisioner does, for a disk", "",
		`{"spec": {"volumeMode": "Block", "mountOptions": null, "csi": {"fsType": null}}}`)
	for _, claim := range []string{"taken-there", "waiting"} {
		list = append(list, attempt{
			"create persistentvolumes", leftOver + "a volume of its own node for the pending claim " + claim,
			http.MethodPost, volumesPrefix, w.newVolume(w.ns, claim, w.uid(claim)), "",
		})
	}
	return list
}

func (w *takenOver) uid(claim string) string {
	w.t.Helper()
	return w.ask("-n", w.ns, "get", "pvc", claim, "-o", "jsonpath={.metadata.uid}")
}

// volumeChanges are what a volume has that others act upon.
func volumeChanges() map[string]string {
	changes := metadataAttempts()
	maps.Copy(changes, map[string]string{
		"a smaller size":            `{"spec": {"capacity": {"storage": "1Ki"}}}`,
		"another claim":             `{"spec": {"claimRef": {"name": "mine"}}}`,
		"a claim elsewhere":         `{"spec": {"claimRef": {"namespace": "kube-system", "name": "x", "uid": "` + absentUID + `"}}}`,
		"no claim":                  `{"spec": {"claimRef": null}}`,
		"a larger size, no claim":   `{"spec": {"capacity": {"storage": "2Mi"}, "claimRef": null}}`,
		"another reclaim policy":    `{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}`,
		"another class":             `{"spec": {"storageClassName": "fast"}}`,
		"a class of attributes":     `{"spec": {"volumeAttributesClassName": "gold"}}`,
		"a mount option":            `{"spec": {"mountOptions": ["suid"]}}`,
		"another access mode":       `{"spec": {"accessModes": ["ReadWriteMany"]}}`,
		"another provisioner":       annotations("pv.kubernetes.io/provisioned-by", "x"),
		"another size of before":    `{"metadata": {"annotations": {` + sizeBefore + `: "1Ki"}}}`,
		"larger, and a label":       `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"labels": {"x": "y"}}}`,
		"larger, and no finalizers": `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"finalizers": null}}`,
		"larger, and an owner":      `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "` + absentUID + `"}]}}`,
	})
	for _, field := range secretReferences() {
		changes[field] = `{"spec": {"csi": {"` + field + `": {"name": "admin", "namespace": "kube-system"}}}}`
	}
	return changes
}

func (w *takenOver) changeVolumes() (list []attempt) {
	add := w.changeVolume(&list)
	w.changeEveryVolume(add, onlyKeeps)
	add("there", "the provisioner's finalizer", onlyKeeps, withoutFinalizer)
	for _, claim := range []string{"here", "immediate-here"} {
		add(claim, "the provisioner's finalizer", "", withoutFinalizer)
	}
	for _, claim := range []string{"here", "there", "immediate-here", "immediate-there"} {
		add(claim, "a larger size", onlyKeeps, larger)
		list = append(list, attempt{
			"delete persistentvolumes", "of claim " + claim, http.MethodDelete,
			w.volume(claim), "",
			map[bool]string{true: onlyThatNode}[strings.HasSuffix(claim, "there")],
		})
	}
	return append(list, attempt{
		"delete persistentvolumes", "of another driver", http.MethodDelete,
		w.volume("static"), "", onlyThisDriver,
	})
}

const (
	withoutFinalizer = `{"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}}`
	larger           = `{"spec": {"capacity": {"storage": "2Mi"}}, "metadata": {"annotations": {` +
		sizeBefore + `: "1Mi"}}}`
)

// changeVolume adds attempts to change the volume of a claim to a list.
func (w *takenOver) changeVolume(list *[]attempt) func(claim, what, want, change string) {
	return func(claim, what, want, change string) {
		*list = append(*list, attempt{
			"patch persistentvolumes", what + " of claim " + claim, http.MethodPatch,
			w.volume(claim), change, want,
		})
	}
}

// changeEveryVolume tries what nobody needs, on volumes of this driver and of another.
func (w *takenOver) changeEveryVolume(add func(claim, what, want, change string), refusal string) {
	for claim, want := range map[string]string{
		"here": refusal, "there": refusal, "immediate-here": refusal, "immediate-there": refusal,
		"static": onlyThisDriver,
	} {
		for what, change := range volumeChanges() {
			add(claim, what, want, change)
		}
		add(claim, "the node", want, spec(map[string]any{"nodeAffinity": affinity("elsewhere")}))
	}
}

// changeSizes are what the resizer can do to volumes.
func (w *takenOver) changeSizes() (list []attempt) {
	add := w.changeVolume(&list)
	w.changeEveryVolume(add, onlySizes)
	for _, claim := range []string{"here", "there", "immediate-here", "immediate-there"} {
		add(claim, "the provisioner's finalizer", onlySizes, withoutFinalizer)
		add(claim, "a larger size", "", larger)
	}
	return list
}

// placeClaims are what the placer can do to claims.
func (w *takenOver) placeClaims() (list []attempt) {
	const onlyPlaces = "the placer may only select the node"
	apply(w.t, w.ns, restored("with-source", "of-nobody", "1Mi", "none"))
	add := func(claim, what, want, change string) {
		list = append(list, attempt{
			"patch persistentvolumeclaims", what + " of claim " + claim, http.MethodPatch,
			claimPath(w.ns, claim), change, want,
		})
	}
	states := claimStates()
	states["with-source"] = onlyMarks
	for claim := range states {
		const want = onlyPlaces
		for what, change := range claimChanges(w.here, w.there) {
			if claim == "static" && what == "a larger size" || claim == "with-source" && what == "a third node" {
				continue // another plugin refuses the one, and the other is what the placer does
			}
			add(claim, what, want, change)
		}
		add(claim, "clone protection", want, w.finalizersAnd(claim, cloneFinalizer))
		if claim != "with-source" {
			add(claim, "the other node", want, annotations(selectedNode, w.there+"-y"))
		}
	}
	add("with-source", "a node", "", annotations(selectedNode, w.there))
	add("taken-here", "no node", onlyPlaces, `{"metadata": {"annotations": {"`+selectedNode+`": null}}}`)
	add("foreign", "a node", onlyPlaces, annotations(selectedNode, w.there))
	return list
}

// claimStates are states of a claim: how it is bound, and whose it is. The refusal is that of
// whatever is not the provisioner's to change.
func claimStates() map[string]string {
	return map[string]string{
		"here":            onlyMarks, // WaitForFirstConsumer, bound
		"there":           onlyMarks,
		"immediate-here":  onlyMarks, // Immediate, bound
		"immediate-there": onlyMarks,
		"waiting":         onlyMarks,    // Immediate, no node has taken it
		"taken-there":     onlyMarks,    // the scheduler or a node has chosen another node
		"taken-here":      onlyMarks,    // and this one
		"unscheduled":     onlyClaimsOf, // WaitForFirstConsumer, before any pod
		"foreign":         onlyClaimsOf, // another driver's
		"static":          onlyClaimsOf, // bound to a volume that an administrator wrote
	}
}

func claimChanges(here, there string) map[string]string {
	changes := metadataAttempts()
	maps.Copy(changes, map[string]string{
		"a larger size":                  `{"spec": {"resources": {"requests": {"storage": "4Mi"}}}}`,
		"a volume":                       `{"spec": {"volumeName": "mine"}}`,
		"a class of attributes":          `{"spec": {"volumeAttributesClassName": "gold"}}`,
		"a third node":                   annotations(selectedNode, there+"-x"),
		"another provisioner":            annotations(provisionerOf, "x"),
		"bound":                          annotations("pv.kubernetes.io/bind-completed", "no"),
		"this node, and a label":         `{"metadata": {"labels": {"x": "y"}, "annotations": {"` + selectedNode + `": "` + here + `"}}}`,
		"clone protection, and an owner": `{"metadata": {"finalizers": ["` + cloneFinalizer + `"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "` + absentUID + `"}]}}`,
	})
	return changes
}

func (w *takenOver) changeClaims() (list []attempt) {
	add := func(claim, what, want, change string) {
		path := claimPath(w.ns, claim)
		list = append(list, attempt{
			"update persistentvolumeclaims", what + " of claim " + claim, http.MethodPut, path,
			w.changed(path, change), want,
		})
	}
	protected := func(claim string) string { return w.finalizersAnd(claim, cloneFinalizer) }
	take := annotations(selectedNode, w.here)
	giveBack := `{"metadata": {"annotations": {"` + selectedNode + `": null}}}`
	for claim, want := range claimStates() {
		for what, change := range claimChanges(w.here, w.there) {
			if claim == "static" && what == "a larger size" {
				continue // another plugin refuses that: no class says that the volume can grow
			}
			add(claim, what, want, change)
		}
		if want == onlyClaimsOf {
			add(claim, "this node", want, take)
			add(claim, "clone protection", want, protected(claim))
			continue
		}
		add(claim, "clone protection", "", protected(claim))
	}
	// Whether a claim may be taken does not depend on its binding mode, but on whose it is.
	add("waiting", "this node", "", take)
	add("waiting", "another node", onlyMarks, annotations(selectedNode, w.there))
	add("taken-here", "no node", "", giveBack)
	for _, claim := range []string{"taken-there", "there"} {
		add(claim, "this node", onlyMarks, take)
		add(claim, "no node", onlyMarks, giveBack)
	}
	add("here", "no node", onlyMarks, giveBack) // bound: the scheduler reads it no more
	add("immediate-there", "this node", onlyMarks, take)
	return list
}

// finalizersAnd is a merge patch that gives a claim one more finalizer.
func (w *takenOver) finalizersAnd(claim, finalizer string) string {
	w.t.Helper()
	var o struct{ Metadata struct{ Finalizers []string } }
	if err := json.Unmarshal([]byte(w.raw(claimPath(w.ns, claim))), &o); err != nil {
		w.t.Fatal(err)
	}
	return marshal(map[string]any{
		"metadata": map[string]any{"finalizers": append(o.Metadata.Finalizers, finalizer)},
	})
}

// keepSources are what the snapshot controller of the chart can do to claims.
func (w *takenOver) keepSources() (list []attempt) {
	const onlyFinalizer = "the snapshot controller may only change its own finalizer"
	for claim := range claimStates() {
		path := claimPath(w.ns, claim)
		add := func(what, want, change string) {
			list = append(list, attempt{
				"update persistentvolumeclaims", what + " of claim " + claim, http.MethodPut, path,
				w.changed(path, change), want,
			})
		}
		for what, change := range claimChanges(w.here, w.there) {
			if claim != "static" || what != "a larger size" {
				add(what, onlyFinalizer, change)
			}
		}
		add("clone protection", onlyFinalizer, w.finalizersAnd(claim, cloneFinalizer))
		add("its own finalizer", "",
			w.finalizersAnd(claim, "snapshot.storage.kubernetes.io/pvc-as-source-protection"))
	}
	return list
}

func (w *takenOver) tellGrowth() (list []attempt) {
	add := func(claim, what, want, change string) {
		list = append(list, attempt{
			"patch persistentvolumeclaims/status", what + " of claim " + claim, http.MethodPatch,
			claimPath(w.ns, claim) + "/status", change, want,
		})
	}
	condition := func(claim, kind string) string {
		// A merge patch replaces the list. Kubernetes 1.37 has a condition of its own there.
		others := strings.Trim(w.ask("-n", w.ns, "get", "pvc", claim, "-o",
			"jsonpath={.status.conditions}"), "[]")
		if others != "" {
			others += ", "
		}
		return `{"status": {"conditions": [` + others + `{"type": "` + kind + `", "status": "True", ` +
			`"lastTransitionTime": "2026-01-01T00:00:00Z", "message": "x"}]}}`
	}
	const allocated = `{"status": {"allocatedResources": {"storage": "1Mi"}}}`
	const onlyGrowth = "of a claim only how far it has grown"
	for claim, want := range claimStates() {
		if want == onlyMarks {
			want = onlyGrowth
		}
		for what, change := range map[string]string{
			"lost":                   `{"status": {"phase": "Lost"}}`,
			"another size":           `{"status": {"capacity": {"storage": "1Gi"}}}`,
			"another access mode":    `{"status": {"accessModes": ["ReadWriteMany"]}}`,
			"another class in use":   `{"status": {"currentVolumeAttributesClassName": "gold"}}`,
			"a modification":         `{"status": {"modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "gold"}}}`,
			"an annotation":          annotations("example.com/x", "y"),
			"this node":              annotations(selectedNode, w.here+"-x"),
			"another provisioner":    annotations(provisionerOf, "x"),
			"an owner":               metadataAttempts()["an owner that does not exist"],
			"a label":                metadataAttempts()["a label"],
			"no finalizers":          metadataAttempts()["no finalizers"],
			"more than it asks for":  `{"status": {"allocatedResources": {"storage": "1Ti"}}}`,
			"growth of another kind": `{"status": {"allocatedResources": {"storage": "1Mi"}, "allocatedResourceStatuses": {"example.com/x": "NodeResizePending"}}}`,
			"a foreign condition":    condition(claim, "ModifyVolumeError"),
		} {
			add(claim, what, want, change)
		}
		if want == onlyClaimsOf {
			add(claim, "how far it has grown", want, allocated)
			continue
		}
		add(claim, "what is allocated", "", allocated)
		for _, kind := range []string{"Resizing", "FileSystemResizePending", "ControllerResizeError"} {
			add(claim, "the condition "+kind, "", condition(claim, kind))
		}
		add(claim, "that no node need grow it", "",
			annotations("volume.kubernetes.io/node-expansion-not-required", "yes"))
	}
	return list
}

func (w *takenOver) changeContents() (list []attempt) {
	const onlyItsParts = "of a snapshot only its state"
	const onlyItsState = "of a snapshot's state only what external-snapshotter writes"
	add := func(snapshot, sub, what, want, change string) {
		path := w.content(snapshot) + sub
		right := "volumesnapshotcontents" + sub + ".snapshot.storage.k8s.io"
		list = append(list, attempt{
			"patch " + right, what + " of snapshot " + snapshot, http.MethodPatch, path, change, want,
		})
		if sub != "" {
			list = append(list, attempt{
				"update " + right, what + " of snapshot " + snapshot, http.MethodPut, path,
				w.changed(strings.TrimSuffix(path, sub), change), want,
			})
		}
	}
	const being = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
	for snapshot, want := range map[string]string{"here": onlyItsParts, "there": onlyItsContents} {
		for what, change := range metadataAttempts() {
			if snapshot == "here" && what == "no finalizers" {
				continue // the snapshotter's is the only one
			}
			add(snapshot, "", what, want, change)
		}
		add(snapshot, "", "another node", want,
			`{"metadata": {"labels": {"snapshot.storage.kubernetes.io/managed-by": "`+w.here+`-x"}}}`)
		add(snapshot, "", "another policy", want, `{"spec": {"deletionPolicy": "Retain"}}`)
		add(snapshot, "", "another snapshot's name", "",
			`{"spec": {"volumeSnapshotRef": {"name": "mine", "namespace": "kube-system"}}}`)
		list[len(list)-1].want = map[string]string{"here": onlyItsParts, "there": onlyItsContents}[snapshot]
		add(snapshot, "", "the secret of its deletion", want,
			annotations("snapshot.storage.kubernetes.io/deletion-secret-name", "admin",
				"snapshot.storage.kubernetes.io/deletion-secret-namespace", "kube-system"))
		add(snapshot, "/status", "a group",
			map[string]string{"here": onlyItsState, "there": onlyItsContents}[snapshot],
			`{"status": {"volumeGroupSnapshotHandle": "x"}}`)
	}
	add("there", "/status", "its state", onlyItsContents, `{"status": {"readyToUse": false}}`)
	add("there", "", "being created", onlyItsContents, annotations(being, "yes"))
	add("here", "/status", "its state", "", `{"status": {"readyToUse": false}}`)
	add("here", "", "being created", "", annotations(being, "yes"))
	add("here", "", "the snapshotter's finalizer", "", `{"metadata": {"finalizers": null}}`)
	return list
}

func (w *takenOver) newCapacity(node string) string {
	return fmt.Sprintf(`{"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
		"metadata": {"generateName": "csisc-", "namespace": %q,
			"labels": {"csi.storage.k8s.io/drivername": %q, "csi.storage.k8s.io/managed-by": "external-provisioner-%s"},
			"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": %q, "uid": %q, "controller": true}]},
		"storageClassName": "csi-hostpath-new", "nodeTopology": {"matchLabels": {%q: %q}}, "capacity": "1Gi"}`,
		namespace, driverName, node, release, absentUID, topologyKey, node)
}

func (w *takenOver) changeCapacities() (list []attempt) {
	const kind = " csistoragecapacities.storage.k8s.io"
	const otherMetadata = "may have no metadata that external-provisioner does not write"
	const onlySizes = "of capacity only the sizes and the owner may be changed"
	const otherOwner = "may own capacity"
	create := func(what, want, node, change string) {
		list = append(list, attempt{
			"create" + kind, what, http.MethodPost, capacityPrefix,
			fixture.Merged(w.t, w.newCapacity(node), change), want,
		})
	}
	owner := `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "` + absentUID + `"}]}}`
	create("of this node, as the provisioner does", "", w.here, `{}`)
	create("of another node", onlyItsRoom, w.there, `{}`)
	create("of every node", onlyItsRoom, w.here, `{"nodeTopology": {"matchLabels": null}}`)
	create("of no node", onlyItsRoom, w.here, `{"nodeTopology": null}`)
	create("of nodes by an expression", onlyItsRoom, w.here,
		`{"nodeTopology": {"matchLabels": null, "matchExpressions": [{"key": "`+topologyKey+`", "operator": "Exists"}]}}`)
	create("of nodes by another label", onlyItsRoom, w.here,
		`{"nodeTopology": {"matchLabels": {"`+topologyKey+`": null, "kubernetes.io/os": "linux"}}}`)
	create("that another node's provisioner looks after", otherMetadata, w.here,
		`{"metadata": {"labels": {"csi.storage.k8s.io/managed-by": "external-provisioner-`+w.there+`"}}}`)
	create("of another driver", otherMetadata, w.here,
		`{"metadata": {"labels": {"csi.storage.k8s.io/drivername": "x"}}}`)
	create("with a label", otherMetadata, w.here, metadataAttempts()["a label"])
	create("with an annotation", otherMetadata, w.here, metadataAttempts()["an annotation"])
	create("with a finalizer", otherMetadata, w.here, metadataAttempts()["a foreign finalizer"])
	create("with an owner", otherOwner, w.here, owner)
	for where, node := range map[string]string{"here": w.here, "there": w.there} {
		path := capacityPrefix + "/" + w.capacityOf(node)
		refusal := func(want string) string {
			if where == "there" {
				return onlyItsRoom
			}
			return want
		}
		for _, c := range []struct{ what, want, change string }{
			{"the size", "", `{"capacity": "3Mi"}`},
			{"a label", onlySizes, metadataAttempts()["a label"]},
			{"an annotation", onlySizes, metadataAttempts()["an annotation"]},
			{"a finalizer", onlySizes, metadataAttempts()["a foreign finalizer"]},
			{"an owner", otherOwner, owner},
			{"the class", "immutable", `{"storageClassName": "x"}`},
			{"the node", "immutable", `{"nodeTopology": {"matchLabels": {"` + topologyKey + `": "x"}}}`},
		} {
			want := refusal(c.want)
			if c.want == "immutable" {
				want = c.want // the API server's own validation comes first
			}
			list = append(list, attempt{
				"update" + kind, c.what + " of the capacity " + where, http.MethodPut, path,
				w.changed(path, c.change), want,
			})
		}
		list = append(list, attempt{
			"delete" + kind, "the capacity " + where, http.MethodDelete, path, "", refusal(""),
		})
	}
	return list
}

// capacityOf is the name of what a node's provisioner says of its room for the class csi-hostpath.
func (w *takenOver) capacityOf(node string) string {
	w.t.Helper()
	names := kubectl(w.t, "-n", namespace, "get", "csistoragecapacities", "-o",
		`jsonpath={range .items[?(@.storageClassName=="csi-hostpath")]}{.metadata.name} {.nodeTopology.matchLabels}{"\n"}{end}`)
	for line := range strings.Lines(names) {
		if name, labels, _ := strings.Cut(line, " "); strings.Contains(labels, `"`+node+`"`) {
			return name
		}
	}
	w.t.Fatalf("no capacity of %s in:\n%s", node, names)
	return ""
}

func (w *takenOver) newEvent(component string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e2e.%x", "namespace": %q},
		"involvedObject": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": %q, "name": "here"},
		"reason": "ProvisioningFailed", "message": "x", "type": "Warning", "count": 1,
		"firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
		"source": {"component": %q}, "reportingComponent": %q}`, component, w.ns, w.ns, component, component)
}

func (w *takenOver) changeEvents() (list []attempt) {
	const ownSidecars = "may only report events of its own sidecars"
	const ownKinds = "may only report events of volumes, claims and snapshots"
	own := driverName + "_" + w.pod + "_" + absentUID
	path := "/api/v1/namespaces/" + w.ns + "/events"
	create := func(what, want, component, change string) {
		list = append(list, attempt{
			"create events", what, http.MethodPost, path, fixture.Merged(w.t, w.newEvent(component), change), want,
		})
	}
	create("of the provisioner", "", own, `{}`)
	create("of the snapshotter", "", "csi-snapshotter "+driverName, `{}`)
	for _, component := range []string{
		"kubelet", "default-scheduler", driverName + "_" + w.pod + "x_" + absentUID,
		"external-resizer " + driverName, leaseName + "/" + w.pod, "csi-hostpath-controller",
	} {
		create("of "+component, ownSidecars, component, `{}`)
	}
	create("of a pod", ownKinds, own, `{"involvedObject": {"kind": "Pod"}}`)
	create("of a node", ownKinds, own, `{"involvedObject": {"kind": "Node"}}`)
	for what, change := range metadataAttempts() {
		if what != "no finalizers" {
			create("with "+what, "a new event may have no label", own, change)
		}
	}
	for name, component := range map[string]string{"own": own, "kubelets": "kubelet"} {
		apply(w.t, w.ns, fixture.Merged(w.t, w.newEvent(component), `{"metadata": {"name": "`+name+`"}}`))
		want := func(refusal string) string {
			if name == "kubelets" {
				return ownSidecars
			}
			return refusal
		}
		const onlyCount = "of an event only its count, time and message"
		patch := func(what, refusal, change string) {
			list = append(list, attempt{
				"patch events", what + " of the event " + name, http.MethodPatch, path + "/" + name, change,
				want(refusal),
			})
		}
		patch("the count", "", `{"count": 2, "lastTimestamp": "2026-01-02T00:00:00Z"}`)
		patch("the reason", onlyCount, `{"reason": "Killing"}`)
		patch("the component", onlyCount, `{"source": {"component": "kubelet"}}`)
		for what, change := range metadataAttempts() {
			if what != "no finalizers" {
				patch(what, onlyCount, change)
			}
		}
	}
	return list
}

// changePlacersEvents are what the placer and the resizer can do to events.
func (w *takenOver) changePlacersEvents() (list []attempt) {
	const ownSidecars = "may only report events of the placer and the resizer"
	const ownKinds = "may only report events of volumes, claims, pods, snapshots and leases"
	const onlyCount = "of an event only its count, time and message"
	const own = "csi-hostpath-controller"
	path := "/api/v1/namespaces/" + w.ns + "/events"
	create := func(what, want, component, change string) {
		list = append(list, attempt{
			"create events", what, http.MethodPost, path, fixture.Merged(w.t, w.newEvent(component), change), want,
		})
	}
	create("of the placer", "", own, `{}`)
	create("of a pod that waits", "", own, `{"involvedObject": {"kind": "Pod"}}`)
	create("of the resizer", "", "external-resizer "+driverName, `{}`)
	create("of the resizer's election", "", leaseName+"/"+w.pod, `{"involvedObject": {"kind": "Lease"}}`)
	for _, component := range []string{
		"kubelet", "default-scheduler", "external-provisioner", leaseName + "/" + w.pod + "x",
	} {
		create("of "+component, ownSidecars, component, `{}`)
	}
	create("of a node", ownKinds, own, `{"involvedObject": {"kind": "Node"}}`)
	for what, change := range metadataAttempts() {
		if what != "no finalizers" {
			create("with "+what, "a new event may have no label", own, change)
		}
	}
	for name, component := range map[string]string{"placers": own, "kubelets-too": "kubelet"} {
		apply(w.t, w.ns, fixture.Merged(w.t, w.newEvent(component), `{"metadata": {"name": "`+name+`"}}`))
		patch := func(what, want, change string) {
			if component != own {
				want = ownSidecars
			}
			list = append(list, attempt{
				"patch events", what + " of the event " + name, http.MethodPatch, path + "/" + name, change,
				want,
			})
		}
		patch("the count", "", `{"count": 2, "lastTimestamp": "2026-01-02T00:00:00Z"}`)
		patch("the reason", onlyCount, `{"reason": "Killing"}`)
	}
	return list
}

func (w *takenOver) changeLeases() (list []attempt) {
	const kind = " leases.coordination.k8s.io"
	const ownLease = "may only have the leases "
	const ownPod = "may only take the lease for that pod"
	const onlyHolder = "of a lease only its holder may be changed"
	lease := func(name string) string {
		return fmt.Sprintf(`{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": {"name": %q, "namespace": %q}, "spec": {"holderIdentity": %q, "leaseDurationSeconds": 15}}`,
			name, namespace, w.pod)
	}
	path := leasePrefix + "/" + leaseName
	update := func(what, want, change string) {
		list = append(list, attempt{
			"update" + kind, what, http.MethodPut, path,
			w.changed(path, fixture.Merged(w.t, `{"spec": {"holderIdentity": "`+w.pod+`"}}`, change)), want,
		})
	}
	list = append(list,
		attempt{"create" + kind, "of another name", http.MethodPost, leasePrefix, lease("mine"), ownLease},
		attempt{
			"create" + kind, "in kube-system", http.MethodPost,
			"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases",
			strings.ReplaceAll(lease(leaseName), `"`+namespace+`"`, `"kube-system"`), forbidden,
		},
		// The name is found taken only after the policies have let the request through.
		attempt{"create" + kind, "as the resizer does", http.MethodPost, leasePrefix, lease(leaseName), "already exists"},
		attempt{"get" + kind, "the resizer's", http.MethodGet, path, "", ""},
		attempt{"get" + kind, "another one", http.MethodGet, leasePrefix + "/mine", "", forbidden},
	)
	update("its own pod as holder", "", `{}`)
	update("nobody as holder", "", `{"spec": {"holderIdentity": ""}}`)
	update("somebody else as holder", ownPod, `{"spec": {"holderIdentity": "somebody"}}`)
	update("a year", ownPod, `{"spec": {"leaseDurationSeconds": 31536000}}`)
	for what, change := range metadataAttempts() {
		if what != "no finalizers" {
			update(what, onlyHolder, change)
		}
	}
	return list
}

// reads are the rights to read. Admission does not see a read: RBAC alone bounds them.
func (w *takenOver) reads() (list []attempt) {
	for right, path := range map[string]string{
		"get persistentvolumes":                     w.volume("there"),
		"list persistentvolumes":                    volumesPrefix,
		"watch persistentvolumes":                   volumesPrefix + "?watch=1&timeoutSeconds=1",
		"list persistentvolumeclaims":               "/api/v1/persistentvolumeclaims",
		"watch persistentvolumeclaims":              "/api/v1/persistentvolumeclaims?watch=1&timeoutSeconds=1",
		"list storageclasses.storage.k8s.io":        "/apis/storage.k8s.io/v1/storageclasses",
		"watch storageclasses.storage.k8s.io":       "/apis/storage.k8s.io/v1/storageclasses?watch=1&timeoutSeconds=1",
		"list csistoragecapacities.storage.k8s.io":  capacityPrefix,
		"watch csistoragecapacities.storage.k8s.io": capacityPrefix + "?watch=1&timeoutSeconds=1",
		"get pods":                   "/api/v1/namespaces/" + namespace + "/pods/" + w.pod,
		"get persistentvolumeclaims": claimPath(w.ns, "there"),
		"get volumesnapshots.snapshot.storage.k8s.io":          "/apis/snapshot.storage.k8s.io/v1/namespaces/" + w.ns + "/volumesnapshots/there",
		"list volumesnapshotclasses.snapshot.storage.k8s.io":   "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses",
		"watch volumesnapshotclasses.snapshot.storage.k8s.io":  "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses?watch=1&timeoutSeconds=1",
		"get volumesnapshotcontents.snapshot.storage.k8s.io":   w.content("there"),
		"list volumesnapshotcontents.snapshot.storage.k8s.io":  contentsPrefix,
		"watch volumesnapshotcontents.snapshot.storage.k8s.io": contentsPrefix + "?watch=1&timeoutSeconds=1",
	} {
		list = append(list, attempt{right, leftOver + "reads all of the cluster's", http.MethodGet, path, "", ""})
	}
	return list
}

// readsOfThePlacer are its rights to read.
func (w *takenOver) readsOfThePlacer() (list []attempt) {
	for resource, path := range map[string]string{
		"persistentvolumes": volumesPrefix, "persistentvolumeclaims": "/api/v1/persistentvolumeclaims",
		"nodes": "/api/v1/nodes", "pods": "/api/v1/pods", "events": "/api/v1/events",
		"storageclasses.storage.k8s.io":                  "/apis/storage.k8s.io/v1/storageclasses",
		"volumesnapshotcontents.snapshot.storage.k8s.io": contentsPrefix,
	} {
		for right, query := range map[string]string{"list ": "", "watch ": "?watch=1&timeoutSeconds=1"} {
			list = append(list, attempt{
				right + resource, leftOver + "reads all of the cluster's", http.MethodGet, path + query, "", "",
			})
		}
	}
	return append(list,
		attempt{
			"get volumesnapshots.snapshot.storage.k8s.io", leftOver + "of another namespace", http.MethodGet,
			"/apis/snapshot.storage.k8s.io/v1/namespaces/" + w.ns + "/volumesnapshots/there", "", "",
		},
		attempt{
			"get volumesnapshotcontents.snapshot.storage.k8s.io", leftOver + "any", http.MethodGet,
			w.content("there"), "", "",
		})
}

// notGrantedToThePlacer are requests for which it has no right.
func (w *takenOver) notGrantedToThePlacer() (list []attempt) {
	add := func(method, path, body string) {
		list = append(list, attempt{"none", method + " " + path, method, path, body, forbidden})
	}
	for _, path := range []string{
		"/api/v1/secrets", "/api/v1/configmaps", "/api/v1/serviceaccounts", "/api/v1/namespaces",
		"/api/v1/namespaces/" + namespace + "/secrets", capacityPrefix,
	} {
		add(http.MethodGet, path, "")
	}
	label := metadataAttempts()["a label"]
	for _, path := range []string{
		"/api/v1/nodes/" + w.here, "/api/v1/namespaces/" + w.ns + "/pods/there",
		w.volume("there") + "/status", w.content("there"),
		"/apis/apps/v1/namespaces/" + namespace + "/deployments/" + placerAccount,
	} {
		add(http.MethodPatch, path, label)
	}
	for _, path := range []string{
		w.volume("there"), claimPath(w.ns, "there"), "/api/v1/namespaces/" + w.ns + "/pods/there",
		w.content("there"), leasePrefix + "/" + leaseName,
	} {
		add(http.MethodDelete, path, "")
	}
	add(http.MethodPost, volumesPrefix, w.newVolume(w.ns, "mine", absentUID))
	add(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+release+"/token",
		`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}`)
	return list
}

// notGranted are requests for which there is no right.
func (w *takenOver) notGranted() (list []attempt) {
	add := func(method, path, body string) {
		list = append(list, attempt{"none", method + " " + path, method, path, body, forbidden})
	}
	const storage = "/apis/storage.k8s.io/v1/"
	const snapshots = "/apis/snapshot.storage.k8s.io/v1/"
	inNamespace := "/api/v1/namespaces/" + w.ns
	for _, path := range []string{
		"/api/v1/secrets", "/api/v1/configmaps", "/api/v1/pods", "/api/v1/nodes", "/api/v1/serviceaccounts",
		"/api/v1/events", "/api/v1/namespaces", inNamespace + "/pods/here",
		"/api/v1/namespaces/" + namespace + "/pods", "/api/v1/namespaces/" + namespace + "/secrets",
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/" + w.there,
		storage + "csinodes", storage + "volumeattributesclasses", storage + "volumeattachments",
		storage + "csidrivers", snapshots + "volumesnapshots",
		storage + "namespaces/default/csistoragecapacities",
	} {
		add(http.MethodGet, path, "")
	}
	label := metadataAttempts()["a label"]
	for _, path := range []string{
		"/api/v1/nodes/" + w.there, "/api/v1/nodes/" + w.here, "/api/v1/nodes/" + w.there + "/status",
		inNamespace + "/pods/there", claimPath(w.ns, "there"),
		w.volume("there") + "/status",
		storage + "csinodes/" + w.there, storage + "csidrivers/" + driverName,
		storage + "storageclasses/csi-hostpath",
		snapshots + "namespaces/" + w.ns + "/volumesnapshots/there",
		"/apis/apps/v1/namespaces/" + namespace + "/daemonsets/" + release,
	} {
		add(http.MethodPatch, path, label)
	}
	for _, path := range []string{
		volumesPrefix, "/api/v1/nodes/" + w.there, inNamespace + "/pods/there", claimPath(w.ns, "there"),
		inNamespace + "/events", leasePrefix + "/" + leaseName, w.content("there"),
		snapshots + "namespaces/" + w.ns + "/volumesnapshots/there", capacityPrefix,
		"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/" + release + "-volumes",
	} {
		add(http.MethodDelete, path, "")
	}
	add(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+release+"/token",
		`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}`)
	add(http.MethodPost, inNamespace+"/persistentvolumeclaims", `{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": {"name": "mine"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}`)
	return list
}
