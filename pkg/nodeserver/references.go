package nodeserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// kubeletData is the file that kubelet keeps beside a target from before NodePublishVolume
	// until after NodeUnpublishVolume, to find the volume again after its own restart
	// (volDataFileName of Kubernetes pkg/volume/csi/csi_plugin.go).
	kubeletData = "vol_data.json"
	// csiVolumes is the directory that kubelet has in a pod's for CSI volumes
	// (utilstrings.EscapeQualifiedName of CSIPluginName).
	csiVolumes = "kubernetes.io~csi"
	// targetName is what kubelet calls a target.
	targetName          = "mount"
	maxKubeletDataBytes = 64 << 10
)

// volumeData is what is read of kubeletData (volDataKey of Kubernetes
// pkg/volume/csi/csi_plugin.go).
type volumeData struct {
	VolumeHandle string `json:"volumeHandle"`
	DriverName   string `json:"driverName"`
}

// RebuildReferences adds the paths of the host that are published, and what pods have as their own,
// which the pool that has it will know better. A mount does not say by which handle it was asked
// for, and kubelet does. What cannot be read is left out: a second writer is then kept away by the
// scheduler alone. Once a start, before any call.
func (p *Publications) RebuildReferences(ctx context.Context, kubeletDir, driverName string) error {
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	resolved, err := filepath.EvalSymlinks(kubeletDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kubelet's directory: %w", err)
	}
	root, err := os.OpenRoot(resolved)
	if err != nil {
		return fmt.Errorf("kubelet's directory: %w", err)
	}
	defer root.Close()
	for _, m := range mounts {
		target, ok := mount.TargetAt(kubeletDir, resolved, m.Point)
		if !ok || !isKubeletsTarget(resolved, m.Point) {
			continue
		}
		data, err := readVolumeData(root, resolved, m.Point)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "What is published at a target is not known", "target", target)
		}
		if data.isReferenceOf(driverName) {
			p.enter(target, publication{volume: data.VolumeHandle})
		}
	}
	return nil
}

// isKubeletsTarget reports whether a mount point below kubelet's directory is
// pods/<UID>/volumes/kubernetes.io~csi/<name>/mount. Deeper ones may lie in a filesystem that does
// not answer, and the start must not wait for one.
func isKubeletsTarget(kubeletDir, point string) bool {
	ok, err := path.Match("pods/*/volumes/"+csiVolumes+"/*/"+targetName,
		strings.TrimPrefix(strings.TrimPrefix(point, kubeletDir), "/"))
	return ok && err == nil
}

// isReferenceOf: volumes of pools are found by their mounts.
func (d volumeData) isReferenceOf(driverName string) bool {
	return d.DriverName == driverName && !volume.IsID(d.VolumeHandle) &&
		volume.CheckHandle(d.VolumeHandle) == nil
}

// readVolumeData reads what kubelet has written beside a mount point below its directory. The mount
// point's parent is kubelet's, and no pod can write there.
func readVolumeData(root *os.Root, kubeletDir, point string) (volumeData, error) {
	beside, err := filepath.Rel(kubeletDir, filepath.Join(filepath.Dir(point), kubeletData))
	if err != nil {
		return volumeData{}, err
	}
	f, err := root.OpenFile(beside, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return volumeData{}, err
	}
	defer f.Close()
	var data volumeData
	err = json.NewDecoder(io.LimitReader(f, maxKubeletDataBytes)).Decode(&data)
	return data, err
}
