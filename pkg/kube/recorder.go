package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// SelectedNode is the annotation of a claim that says on which node its volume is made. The
// scheduler and external-provisioner know it (k8s.io/component-helpers/storage/volume,
// AnnSelectedNode).
const SelectedNode = "volume.kubernetes.io/selected-node"

// StorageProvisioner is the annotation of a claim that says which driver is to provision, or has
// provisioned, its volume (k8s.io/component-helpers/storage/volume, AnnStorageProvisioner).
const StorageProvisioner = "volume.kubernetes.io/storage-provisioner"

// ErrNoClaim means that a claim is gone, so that nobody waits for its volume any more.
var ErrNoClaim = errors.New("the claim does not exist")

// Recorder keeps in claims on which node their volumes are made.
type Recorder struct{ client kubernetes.Interface }

// NewRecorder returns a recorder.
func NewRecorder(client kubernetes.Interface) *Recorder { return &Recorder{client} }

// maxConflicts bounds how often a claim is read again because somebody else has changed it.
const maxConflicts = 5

// Record writes the node into a claim that has none, and returns the node that the claim has then:
// another one, if it was there already. When Record returns, the API server has it on its disk. Of
// two replicas one writes, and both get what that one wrote. Errors: ErrNoClaim, and those of the
// request.
func (r *Recorder) Record(
	ctx context.Context, namespace, name, node string,
) (recorded string, err error) {
	for range maxConflicts {
		recorded, err = r.record(ctx, namespace, name, node)
		if !apierrors.IsConflict(err) {
			break
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("%w: %s/%s", ErrNoClaim, namespace, name)
	case err != nil:
		return "", fmt.Errorf("record node %s in claim %s/%s: %w", node, namespace, name, err)
	}
	return recorded, nil
}

func (r *Recorder) record(ctx context.Context, namespace, name, node string) (string, error) {
	claims := r.client.CoreV1().PersistentVolumeClaims(namespace)
	claim, err := claims.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if has := claim.Annotations[SelectedNode]; has != "" {
		return has, nil
	}
	patch, err := SelectNode(claim, node)
	if err != nil {
		return "", err
	}
	changed, err := claims.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return changed.Annotations[SelectedNode], nil
}

// SelectNode is a merge patch that writes a node into a claim. It fails with a conflict if the
// claim has changed, or if it is another one of that name.
func SelectNode(claim metav1.Object, node string) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             claim.GetUID(),
		"resourceVersion": claim.GetResourceVersion(),
		"annotations":     map[string]string{SelectedNode: node},
	}})
}
