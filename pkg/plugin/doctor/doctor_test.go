package doctor

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

const driver = objects.DefaultDriver

// healthy are the facts of a cluster in which nothing is wrong: one node, one claim.
func healthy() *Facts {
	yes, no, class := true, false, "csi-hostpath"
	container := core.Container{
		Name: "driver", Image: "r/csi-hostpath:1",
		Args: []string{"--driver-name=" + driver, "--controller-address=c:1"},
	}
	size := core.ResourceList{core.ResourceStorage: resource.MustParse("1Gi")}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		}
	}
	f := &Facts{
		Now: now, AllNamespaces: true,
		Installation: &objects.Installation{
			Driver: driver, Namespace: "csi-hostpath",
			DaemonSet: &apps.DaemonSet{Spec: apps.DaemonSetSpec{Template: core.PodTemplateSpec{
				Spec: core.PodSpec{Containers: []core.Container{container}},
			}}},
		},
		Drivers: []*storage.CSIDriver{{ObjectMeta: meta("", driver), Spec: storage.CSIDriverSpec{
			AttachRequired: &no, PodInfoOnMount: &yes, StorageCapacity: &yes,
		}}},
		Nodes: []*core.Node{{ObjectMeta: meta("", "a")}},
		CSINodes: []*storage.CSINode{{ObjectMeta: meta("", "a"), Spec: storage.CSINodeSpec{
			Drivers: []storage.CSINodeDriver{{Name: driver}},
		}}},
		Classes: []*storage.StorageClass{{ObjectMeta: meta("", class), Provisioner: driver}},
		DriverPods: []*core.Pod{{
			ObjectMeta: meta("csi-hostpath", "driver-a"),
			Spec:       core.PodSpec{NodeName: "a", Containers: []core.Container{container}},
			Status: core.PodStatus{Conditions: []core.PodCondition{{
				Type: core.PodReady, Status: core.ConditionTrue,
			}}},
		}},
		Claims: []*core.PersistentVolumeClaim{{
			ObjectMeta: provisioned(meta("shop", "books")),
			Spec: core.PersistentVolumeClaimSpec{
				VolumeName: "pvc-1", StorageClassName: &class,
				Resources: core.VolumeResourceRequirements{Requests: size},
			},
			Status: core.PersistentVolumeClaimStatus{Phase: core.ClaimBound, Capacity: size},
		}},
		Volumes: []*core.PersistentVolume{{
			ObjectMeta: meta("", "pvc-1"),
			Spec: core.PersistentVolumeSpec{
				Capacity: size,
				PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
					Driver: driver, VolumeHandle: "7a3baca9c553-pvc-1",
				}},
				PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
				NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
					NodeSelectorTerms: []core.NodeSelectorTerm{{
						MatchExpressions: []core.NodeSelectorRequirement{{
							Key: "topology." + driver + "/node", Operator: core.NodeSelectorOpIn, Values: []string{"a"},
						}},
					}},
				}},
			},
			Status: core.PersistentVolumeStatus{Phase: core.VolumeBound},
		}},
		Data: &Data{
			Nodes: []status.Node{{Name: "a", Linked: true}},
			Pools: []status.Pool{{
				Node: "a", Name: "default", ID: "7a3baca9c553", Ready: true, EnforcesSizes: true,
				SizeBytes: 100, FreeBytes: 60, AvailableBytes: 50, Volumes: 1,
			}},
			Volumes: []status.Volume{{
				ID: "7a3baca9c553-pvc-1", Node: "a", Pool: "default", Created: now.Add(-time.Hour),
			}},
		},
	}
	return f
}

func provisioned(m metav1.ObjectMeta) metav1.ObjectMeta {
	m.Annotations = map[string]string{"volume.kubernetes.io/storage-provisioner": driver}
	return m
}

func TestStoppedNodeIsNamedOnce(t *testing.T) {
	f := healthy()
	f.Nodes[0].Labels = map[string]string{driver + "/stopped": ""}
	f.Data.Nodes[0] = status.Node{Name: "a", Why: "EOF"}
	for _, finding := range Examine(f) {
		if finding.Check == "links" && finding.Severity != OK {
			t.Errorf("%+v", finding)
		}
	}
}

func TestImagesDoNotCountInAPoolWithoutQuotas(t *testing.T) {
	f := healthy()
	f.Data.Pools[0].EnforcesSizes = false
	f.Data.Volumes[0].EnforcesSize = true
	for _, finding := range Examine(f) {
		if finding.Check == "sizes" && finding.Severity != OK {
			t.Errorf("%+v", finding)
		}
	}
}

func TestNothingIsWrongInAHealthyCluster(t *testing.T) {
	checks := map[string]bool{}
	for _, f := range Examine(healthy()) {
		checks[f.Check] = true
		if f.Severity != OK || f.Message == "" {
			t.Errorf("%+v", f)
		}
	}
	if len(checks) < 20 {
		t.Errorf("only these checks were made: %v", checks)
	}
}

func TestRawBlockVolumesAndUnusedImagesAreNotCalledFull(t *testing.T) {
	for _, kind := range []status.Kind{status.Block, status.Image} {
		f := healthy()
		setUse(f, 100)
		f.Data.Volumes[0].Kind = kind
		for _, finding := range Examine(f) {
			if finding.Check == "full-volumes" && finding.Severity != OK {
				t.Errorf("%s: %+v", kind, finding)
			}
		}
	}
}

// setUse lets the volume of healthy have 100 bytes, and hold so many.
func setUse(f *Facts, used int64) {
	f.Data.Volumes[0].CapacityBytes, f.Data.Volumes[0].UsedBytes = 100, &used
}

// readers is a pod that uses the claim of healthy.
func readers(phase core.PodPhase) []*core.Pod {
	return []*core.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reader"},
		Status:     core.PodStatus{Phase: phase},
		Spec: core.PodSpec{Volumes: []core.Volume{{VolumeSource: core.VolumeSource{
			PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "books"},
		}}}},
	}}
}

// snapshotContents is a VolumeSnapshotContent of the driver with a snapshot.
func snapshotContents(handle string) []*unstructured.Unstructured {
	c := &unstructured.Unstructured{Object: map[string]any{
		"spec":   map[string]any{"driver": driver},
		"status": map[string]any{"snapshotHandle": handle},
	}}
	c.SetName("content")
	return []*unstructured.Unstructured{c}
}

func TestSnapshotWithItsContentIsNoOrphan(t *testing.T) {
	const handle, volume = "7a3baca9c553-s-a", "7a3baca9c553-pvc-1"
	complete, beingCut := snapshotContents(handle), snapshotContents("")
	beingCut[0].Object["spec"] = map[string]any{
		"driver": driver, "source": map[string]any{"volumeHandle": volume},
	}
	for _, contents := range [][]*unstructured.Unstructured{complete, beingCut} {
		f := healthy()
		f.SnapshotAPI, f.SnapshotContent = true, contents
		f.Data.Snapshots = []status.Snapshot{{ID: handle, Volume: volume, Node: "a"}}
		for _, finding := range Examine(f) {
			if (finding.Check == "orphans" || finding.Check == "lost-snapshots") && finding.Severity != OK {
				t.Errorf("%+v", finding)
			}
		}
	}
}

// pendingClaim makes the claim of healthy a pending one with an event.
func pendingClaim(f *Facts, message string) {
	c := f.Claims[0]
	c.Spec.VolumeName, c.Status = "", core.PersistentVolumeClaimStatus{Phase: core.ClaimPending}
	f.Volumes, f.Data.Volumes = nil, nil
	f.ClaimEvents = []*core.Event{{
		Type: core.EventTypeWarning, Message: message, LastTimestamp: metav1.NewTime(now),
		InvolvedObject: core.ObjectReference{Namespace: c.Namespace, Name: c.Name},
	}}
}

// waitingPod adds pod shop/reader, which waits for an inline volume.
func waitingPod(f *Facts, reason, message string) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "reader"}
	f.Pods = []*core.Pod{{
		ObjectMeta: meta,
		Spec: core.PodSpec{Volumes: []core.Volume{{VolumeSource: core.VolumeSource{
			CSI: &core.CSIVolumeSource{Driver: driver},
		}}}},
		Status: core.PodStatus{Phase: core.PodPending},
	}}
	f.PodEvents = []*core.Event{{
		Type: core.EventTypeWarning, Reason: reason, LastTimestamp: metav1.NewTime(now), Message: message,
		InvolvedObject: core.ObjectReference{Namespace: meta.Namespace, Name: meta.Name},
	}}
}

func TestUnknownMessageOfAPodLeadsToItsSection(t *testing.T) {
	for reason, section := range map[string]string{
		"FailedScheduling": "the-pod-stays-pending",
		"FailedMount":      "the-pod-stays-containercreating",
	} {
		f := healthy()
		waitingPod(f, reason, "a message that no document has")
		i := slices.IndexFunc(Examine(f), func(found Finding) bool {
			return found.Check == "pods" && strings.HasSuffix(found.Reference, "#"+section)
		})
		if i < 0 {
			t.Errorf("%s: no finding leads to %s", reason, section)
		}
	}
}

func TestEachFaultIsFoundWithItsRemedy(t *testing.T) {
	deleted := metav1.NewTime(now.Add(-time.Hour))
	for _, tc := range []struct {
		title    string
		change   func(*Facts)
		severity Severity
		check    string
		message  string // what it has, subject included
		remedy   string // what the remedy has
	}{
		{
			"the driver is not registered on a node", func(f *Facts) { f.CSINodes[0].Spec.Drivers = nil },
			Error, "nodes", "node a: kubelet has not registered the driver", "kubeletDir",
		},
		{
			"there is no driver on a node", func(f *Facts) {
				f.CSINodes, f.DriverPods = nil, nil
				f.Nodes[0].Spec.Taints = []core.Taint{{Key: "k", Effect: core.TaintEffectNoSchedule}}
			},
			Error, "nodes", "there is no driver; the node has the taint k:NoSchedule", "tolerations",
		},
		{
			"the driver was stopped", func(f *Facts) {
				f.CSINodes[0].Spec.Drivers = nil
				f.Nodes[0].Labels = map[string]string{driver + "/stopped": ""}
			},
			Warning, "nodes", "stopped there by a label", "kubectl label node a " + driver + "/stopped-",
		},
		{
			"kubelet's directory", func(f *Facts) {
				f.DriverPods[0].Status.Conditions = nil
				f.NodeFaults = map[string][]string{"a": {"kubelet_private"}}
			},
			Error, "driver-pods", "node a: no pod can get a volume: kubelet_private", "check the node",
		},
		{
			"no CSIDriver", func(f *Facts) { f.Drivers = nil },
			Error, "csidriver", "there is no such object", "install the chart again",
		},
		{
			"an old sidecar", func(f *Facts) {
				spec := &f.Installation.DaemonSet.Spec.Template.Spec
				spec.Containers = append(spec.Containers, core.Container{
					Name: "provisioner", Image: "r:5000/csi-provisioner:v5.1.0",
				})
			},
			Warning, "versions", "has version v5.1.0", "sidecars' versions",
		},
		{
			"a node without a link", func(f *Facts) {
				f.Data.Nodes[0] = status.Node{Name: "a", Why: "the peer does not answer"}
			},
			Error, "links", "the peer does not answer", "driver's log",
		},
		{
			"a pool that is not open", func(f *Facts) {
				f.Data.Pools[0].Ready, f.Data.Pools[0].Reason = false, "not_mounted"
			},
			Error, "pools", "pool default on node a: is not open: not_mounted", "mount the disk",
		},
		{
			"no quotas", func(f *Facts) { f.Data.Pools[0].EnforcesSizes = false },
			Warning, "sizes", "enforces no sizes: 1 volume can fill the disk", "quotas",
		},
		{
			"a full disk", func(f *Facts) { f.Data.Pools[0].FreeBytes = 1 },
			Error, "room", "the disk is almost full", "kubectl hostpath top",
		},
		{
			"a full pool", func(f *Facts) { f.Data.Pools[0].AvailableBytes = 1 },
			Warning, "room", "left for further volumes", "overcommit",
		},
		{
			"a purge that fails", func(f *Facts) { f.Data.Pools[0].PurgesFailing = 2 },
			Warning, "purges", "2 deleted volumes", "log",
		},
		{
			"a damaged record", func(f *Facts) { f.Data.Volumes[0].Damaged = true },
			Error, "health", "record_damaged", "csi-hostpath repair",
		},
		{
			"controllers of which none leads", func(f *Facts) {
				d := &apps.Deployment{Status: apps.DeploymentStatus{ReadyReplicas: 1}}
				d.Spec.Template.Spec.Containers = []core.Container{{Name: "placer"}}
				f.Installation.Deployments = []*apps.Deployment{d}
				renewed := metav1.NewMicroTime(now.Add(-10 * time.Minute))
				f.Leases = []*coordination.Lease{{
					ObjectMeta: metav1.ObjectMeta{
						Namespace: "csi-hostpath", Name: "csi-hostpath-controller-hostpath-csi-local",
					},
					Spec: coordination.LeaseSpec{RenewTime: &renewed},
				}}
			},
			Error, "controller", "no replica has been the leader for 10m", "look at the pods",
		},
		{
			"a volume without a PersistentVolume", func(f *Facts) {
				f.Data.Volumes = append(f.Data.Volumes, status.Volume{
					ID: "7a3baca9c553-pvc-2", Node: "a", Created: now.Add(-time.Hour),
				})
			},
			Warning, "orphans", "7a3baca9c553-pvc-2", "",
		},
		{
			"a PersistentVolume without a volume", func(f *Facts) { f.Data.Volumes = nil },
			Error, "lost-volumes", "its pool has no volume 7a3baca9c553-pvc-1", "undelete",
		},
		{
			"a PersistentVolume of a node that is gone", func(f *Facts) { f.Nodes[0].Name = "b" },
			Error, "lost-volumes", "its node a does not exist", "",
		},
		{
			"a claim with an error in its class", func(f *Facts) {
				pendingClaim(f, `rpc error: code = InvalidArgument desc = unknown parameter "tpye"; known: a`)
			},
			Error, "claims", "claim shop/books: Pending for 60m: rpc error", "delete the class",
		},
		{
			"a claim that waits for its pod", func(f *Facts) {
				pendingClaim(f, "waiting for first consumer to be created before binding")
			},
			OK, "claims", "waiting for first consumer", "create the pod",
		},
		{
			"a claim that is larger than any room", func(f *Facts) {
				pendingClaim(f, "waiting for pod x to be scheduled")
				room := resource.MustParse("1Mi")
				f.Capacities = []*storage.CSIStorageCapacity{{
					StorageClassName: "csi-hostpath", Capacity: &room,
				}}
			},
			Error, "room", "asks for 1Gi; no node has more than 1Mi", "make room",
		},
		{
			"a claim that does not grow", func(f *Facts) {
				f.Claims[0].Spec.Resources.Requests = core.ResourceList{
					core.ResourceStorage: resource.MustParse("2Gi"),
				}
				f.Claims[0].Status.Conditions = []core.PersistentVolumeClaimCondition{{
					Message: "Waiting for user to (re-)start a pod to finish file system resize of volume",
				}}
			},
			Warning, "growth", "wants to grow to 2Gi, and has 1Gi", "start the pod",
		},
		{
			"a claim that its pool has no room to grow", func(f *Facts) {
				f.Claims[0].Spec.Resources.Requests = core.ResourceList{
					core.ResourceStorage: resource.MustParse("2Gi"),
				}
				f.Claims[0].Status.Conditions = []core.PersistentVolumeClaimCondition{{
					Type:    core.PersistentVolumeClaimFileSystemResizePending,
					Message: "Waiting for user to (re-)start a pod to finish file system resize of volume",
				}, {
					Type: "Unused", Status: core.ConditionFalse, Message: "A pod is referencing this PVC",
				}}
				f.Pods = readers(core.PodRunning)
				f.PodEvents = []*core.Event{{
					Type: core.EventTypeWarning, Reason: "VolumeResizeFailed",
					Message:        "rpc error: pool exhausted: 2 bytes wanted, 1 available",
					LastTimestamp:  metav1.NewTime(now),
					InvolvedObject: core.ObjectReference{Namespace: "shop", Name: "reader"},
				}}
			},
			Warning, "growth", "has 1Gi: rpc error: pool exhausted: 2 bytes wanted, 1 available",
			"make room",
		},
		{
			"a claim that was written by hand and is to grow", func(f *Facts) {
				f.Claims[0].Spec.Resources.Requests = core.ResourceList{
					core.ResourceStorage: resource.MustParse("2Gi"),
				}
				f.Claims[0].Annotations = nil
			},
			Warning, "growth", "has 1Gi: it lacks the annotation", "kubectl annotate pvc",
		},
		{
			"a volume that is nearly full", func(f *Facts) { setUse(f, 95) },
			Warning, "full-volumes", "claim shop/books: is nearly full: 95 of 100 are used",
			`let class csi-hostpath expand volumes`,
		},
		{
			"an image that is full for its filesystem", func(f *Facts) {
				setUse(f, 84)
				f.Data.Volumes[0].Kind, f.Data.Volumes[0].Pods = status.Image, []status.Pod{{}}
			},
			Warning, "full-volumes", "is nearly full: 84 of 100 are used", "enlarge the claim",
		},
		{
			"a full volume", func(f *Facts) {
				yes := true
				f.Classes[0].AllowVolumeExpansion = &yes
				setUse(f, 100)
			},
			Error, "full-volumes", "is full", `or enlarge the claim: kubectl -n shop patch pvc books -p ` +
				`'{"spec":{"resources":{"requests":{"storage":"200"}}}}'`,
		},
		{
			"a full volume whose claim is not visible", func(f *Facts) {
				setUse(f, 100)
				f.Claims = nil
			},
			Error, "full-volumes", "volume pvc-1 on node a: is full", "enlarge the volume's claim",
		},
		{
			"a claim that stays Terminating", func(f *Facts) {
				f.Claims[0].DeletionTimestamp = &deleted
				f.Pods = readers("")
			},
			Warning, "deletions", "in use by reader", "delete the pods",
		},
		{
			"a pod that stays Terminating on a node without a driver", func(f *Facts) {
				f.Pods = readers(core.PodRunning)
				f.Pods[0].DeletionTimestamp, f.Pods[0].Spec.NodeName = &deleted, "b"
			},
			Error, "deletions", "pod shop/reader: has been Terminating for 60m; no driver is ready on its " +
				"node b", "start the driver there",
		},
		{
			"a pod whose unmounting hangs", func(f *Facts) {
				f.Pods = readers(core.PodRunning)
				f.Pods[0].DeletionTimestamp, f.Pods[0].Spec.NodeName = &deleted, "a"
				f.PodEvents = []*core.Event{{
					Type: core.EventTypeWarning, LastTimestamp: metav1.NewTime(now),
					Message:        "rpc error: filesystem does not answer",
					InvolvedObject: core.ObjectReference{Namespace: "shop", Name: "reader"},
				}}
			},
			Error, "deletions", "has been Terminating for 60m: rpc error", "restart its server",
		},
		{
			"a snapshot that no object names", func(f *Facts) {
				f.Data.Snapshots = []status.Snapshot{{
					ID: "7a3baca9c553-s-a", Node: "a", HeldBytes: 1 << 30,
				}}
			},
			Warning, "orphans", "snapshot 7a3baca9c553-s-a on node a: has no VolumeSnapshotContent: " +
				"it holds 1Gi", "delete it on its node",
		},
		{
			"a damaged snapshot", func(f *Facts) {
				f.Data.Snapshots = []status.Snapshot{{ID: "7a3baca9c553-s-a", Node: "a", Damaged: true}}
			},
			Error, "health", "snapshot 7a3baca9c553-s-a on node a: record_damaged", "",
		},
		{
			"a VolumeSnapshotContent whose snapshot is gone", func(f *Facts) {
				f.SnapshotAPI, f.SnapshotContent = true, snapshotContents("7a3baca9c553-s-a")
			},
			Error, "lost-snapshots", "its pool has no snapshot 7a3baca9c553-s-a", "from the trash",
		},
		{
			"a VolumeAttributesClass that is refused", func(f *Facts) {
				want := "fast"
				f.Claims[0].Spec.VolumeAttributesClassName = &want
				f.Claims[0].Status.Conditions = []core.PersistentVolumeClaimCondition{{
					Type:    core.PersistentVolumeClaimVolumeModifyVolumeError,
					Message: "rpc error: it shares its disk with others",
				}}
			},
			Warning, "attributes", "wants the VolumeAttributesClass fast, and has none: rpc error: it shares",
			"events of the claim",
		},
		{
			"a volume that cannot be deleted", func(f *Facts) {
				f.Claims = nil
				f.Volumes[0].Status.Phase = core.VolumeReleased
				f.VolumeEvents = []*core.Event{{
					Type: core.EventTypeWarning, LastTimestamp: metav1.NewTime(now),
					Message:        "rpc error: its image is on /dev/loop1, held by process 1",
					InvolvedObject: core.ObjectReference{Name: "pvc-1"},
				}}
			},
			Error, "deletions", "its image is on /dev/loop1", "end the process",
		},
		{
			"a pod whose mount fails", func(f *Facts) {
				waitingPod(f, "FailedMount", "MountVolume.SetUp failed: driver name hostpath.csi.local not found "+
					"in the list of registered CSI drivers")
			},
			Error, "pods", "pod shop/reader: FailedMount", "is there a driver on the node",
		},
		{
			"a class with a pool that no node has", func(f *Facts) {
				f.Classes[0].Parameters = map[string]string{"pool": "fsat"}
			},
			Error, "classes", "no node has a pool fsat", "correct the class",
		},
		{
			"the snapshot API without a snapshotter", func(f *Facts) { f.SnapshotAPI = true },
			Warning, "snapshot-api", "the driver has no snapshotter", "snapshotter.enabled",
		},
		{
			"a status API that does not answer", func(f *Facts) {
				f.Data, f.DataError = nil, errors.New("you may not port-forward")
			},
			Unknown, "pools", "you may not port-forward", "",
		},
		{
			"claims that the user may not list", func(f *Facts) {
				f.NotShown = []string{"persistentvolumeclaims of all namespaces: you may not list them"}
				f.Claims = nil
			},
			Unknown, "claims", "you may not list persistentvolumeclaims", "",
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			f := healthy()
			tc.change(f)
			for _, found := range Examine(f) {
				if found.Severity == tc.severity && found.Check == tc.check &&
					strings.Contains(found.Subject+": "+found.Message, tc.message) &&
					strings.Contains(found.Remedy, tc.remedy) {
					return
				}
			}
			t.Errorf("not found; found %+v", Examine(f))
		})
	}
}

// The versions of the sidecars are those of the chart.
func TestSidecarsAreThoseOfTheChart(t *testing.T) {
	values, err := os.ReadFile("../../../deploy/helm/csi-hostpath/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string]string{
		"provisioner": "csi-provisioner", "resizer": "csi-resizer", "snapshotter": "csi-snapshotter",
		"snapshot-controller": "snapshot-controller",
	} {
		want := "repository: registry.k8s.io/sig-storage/" + image + "\n    tag: " + Sidecars[name] + "\n"
		if !strings.Contains(string(values), want) {
			t.Errorf("%s: the chart has another version than %s", name, Sidecars[name])
		}
	}
}

// Each reference leads to a heading.
func TestReferencesLeadToHeadings(t *testing.T) {
	sources, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, source := range sources {
		text, err := os.ReadFile(source.Name())
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(text), `"docs/`) {
			path, _, _ := strings.Cut(part, `"`)
			file, heading, ok := strings.Cut(path, "#")
			if !ok || !strings.HasSuffix(file, ".md") || heading == "" || strings.Contains(heading, "\n") {
				continue
			}
			document, err := os.ReadFile("../../../docs/" + file)
			if err != nil {
				t.Error(err)
				continue
			}
			if checked++; !hasHeading(string(document), heading) {
				t.Errorf("docs/%s has no heading for #%s", file, heading)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d references were checked", checked)
	}
}

func hasHeading(document, anchor string) bool {
	for line := range strings.Lines(document) {
		title := strings.TrimSpace(strings.TrimLeft(line, "#"))
		title = strings.ToLower(strings.NewReplacer(" ", "-", "'", "", ",", "", ".", "").Replace(title))
		if strings.HasPrefix(line, "#") && title == anchor {
			return true
		}
	}
	return false
}
