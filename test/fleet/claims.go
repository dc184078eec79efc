package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// selectedNode is the annotation with which the scheduler chooses the node of a claim.
const selectedNode = "volume.kubernetes.io/selected-node"

// claimsUntilBound compares claims that are provisioned with claims that are bound to volumes which
// were there before.
func (b *bench) claimsUntilBound(ctx context.Context) (err error) {
	f, err := b.newFleet(ctx, fleetOptions{nodes: b.nodes, replicas: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	if err := f.startProvisioner(ctx, 0); err != nil {
		return err
	}
	if _, err := f.audit(ctx); err != nil { // of the start
		return err
	}
	var provisioned, static []float64
	var requests [2]map[string]float64 // of each kind, for a claim
	for round := range b.rounds {
		b.progress("round %d", round+1)
		took, err := f.bind(ctx, fmt.Sprintf("static-%d", round), classStatic, b.nodes)
		if err != nil {
			return err
		}
		static = append(static, took.Seconds())
		if requests[0], err = f.perClaim(ctx, b.nodes); err != nil {
			return err
		}
		took, err = f.bind(ctx, fmt.Sprintf("provisioned-%d", round), classWait, b.nodes)
		if err != nil {
			return err
		}
		provisioned = append(provisioned, took.Seconds())
		if requests[1], err = f.perClaim(ctx, b.nodes); err != nil {
			return err
		}
	}
	b.report.Chapter(
		fmt.Sprintf("%d claims on %d nodes until all are bound; floor: to volumes that are there",
			b.nodes, b.nodes),
		report.NewRow("claims that are provisioned", "s", provisioned).
			Beside(provisioned, static).RatioAtMost(1.3).
			With("Requests for a claim that is provisioned: %s\n\nFor one that is bound to a volume: %s",
				counts(requests[1]), counts(requests[0])))
	return nil
}

// perClaim are the requests to the API server since the last audit, for each claim.
func (f *fleet) perClaim(ctx context.Context, claims int) (map[string]float64, error) {
	requests, err := f.audit(ctx)
	kinds := map[string]float64{}
	for _, r := range requests {
		if r.ObjectRef.Resource != "leases" {
			kinds[r.agent()+" "+r.Verb+" "+r.resource()] += 1 / float64(claims)
		}
	}
	return kinds, err
}

// bind makes a claim for each node, chooses its node as the scheduler does, and waits until all are
// bound.
func (f *fleet) bind(
	ctx context.Context, prefix, class string, count int,
) (time.Duration, error) {
	name := func(i int) string { return fmt.Sprintf("%s-%04d", prefix, i) }
	if class == classStatic {
		err := inParallel(ctx, count, func(ctx context.Context, i int) error {
			return f.staticVolume(ctx, name(i), nodeName(i))
		})
		if err != nil {
			return 0, err
		}
	}
	bound, err := f.watchClaims(ctx, prefix)
	if err != nil {
		return 0, err
	}
	defer bound.stop()
	start := time.Now()
	err = inParallel(ctx, count, func(ctx context.Context, i int) error {
		claim, err := f.claim(ctx, name(i), class)
		if err != nil {
			return err
		}
		if class == classStatic {
			return f.reserve(ctx, name(i), claim)
		}
		return f.selectNode(ctx, claim.Name, nodeName(i))
	})
	if err != nil {
		return 0, err
	}
	err = f.wait(ctx, "bound claims", func(context.Context) (string, error) {
		if n := bound.count(); n < count {
			return fmt.Sprintf("%d of %d are bound", n, count), nil
		}
		return "", nil
	})
	return time.Since(start), err
}

func (f *fleet) claim(
	ctx context.Context, name, class string,
) (*core.PersistentVolumeClaim, error) {
	return f.client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, newClaim(name, class),
		metav1.CreateOptions{})
}

// selectNode does what the scheduler does for a claim that is to be provisioned.
func (f *fleet) selectNode(ctx context.Context, claim, node string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{selectedNode: node}},
	})
	if err != nil {
		return err
	}
	_, err = f.client.CoreV1().PersistentVolumeClaims(namespace).Patch(ctx, claim,
		types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// reserve does what the scheduler does for a claim that is to be bound to a volume.
func (f *fleet) reserve(
	ctx context.Context, volumeName string, claim *core.PersistentVolumeClaim,
) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{
			"annotations": map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"},
		},
		"spec": map[string]any{"claimRef": map[string]string{
			"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.Namespace,
			"name": claim.Name, "uid": string(claim.UID), "resourceVersion": claim.ResourceVersion,
		}},
	})
	if err != nil {
		return err
	}
	_, err = f.client.CoreV1().PersistentVolumes().Patch(ctx, volumeName, types.MergePatchType, patch,
		metav1.PatchOptions{})
	return err
}

// staticVolume makes a volume as an administrator does. It is on a node, like those of the driver.
func (f *fleet) staticVolume(ctx context.Context, name, node string) error {
	v := &core.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.Capacity = core.ResourceList{
		core.ResourceStorage: *resource.NewQuantity(claimBytes, resource.BinarySI),
	}
	v.Spec.AccessModes = []core.PersistentVolumeAccessMode{core.ReadWriteOnce}
	v.Spec.PersistentVolumeReclaimPolicy = core.PersistentVolumeReclaimRetain
	v.Spec.StorageClassName = classStatic
	v.Spec.CSI = &core.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: name}
	v.Spec.NodeAffinity = &core.VolumeNodeAffinity{Required: &core.NodeSelector{
		NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{{
			Key: volume.TopologyKey(driverName), Operator: core.NodeSelectorOpIn,
			Values: []string{volume.TopologyValue(node)},
		}}}},
	}}
	_, err := f.client.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
	return err
}

// claimWatch counts bound claims.
type claimWatch struct {
	stop func()

	mu    sync.Mutex
	bound map[string]bool
}

// watchClaims counts the claims whose names begin with a prefix, and that are bound from now on.
func (f *fleet) watchClaims(ctx context.Context, prefix string) (*claimWatch, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &claimWatch{bound: map[string]bool{}}
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, 0,
		informers.WithNamespace(namespace))
	informer := factory.Core().V1().PersistentVolumeClaims().Informer()
	note := func(object any) {
		claim, is := object.(*core.PersistentVolumeClaim)
		if is && claim.Status.Phase == core.ClaimBound && len(claim.Name) > len(prefix) &&
			claim.Name[:len(prefix)] == prefix {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.bound[claim.Name] = true
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    note,
		UpdateFunc: func(_, object any) { note(object) },
	})
	if err != nil {
		cancel()
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	w.stop = func() {
		cancel()
		factory.Shutdown()
	}
	return w, nil
}

func (w *claimWatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bound)
}
