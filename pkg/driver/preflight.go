package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
)

// preflight logs what the process lacks, a line each with the remedy. The driver runs all the same:
// it can do a part of its work, and without kubelet's directory it has no other way to say so.
func preflight(ctx context.Context, cfg config.Config) {
	logger := klog.FromContext(ctx)
	if !mount.MayMount() {
		logger.Error(nil, "The driver may not mount: it is not root, or has no CAP_SYS_ADMIN. "+
			"Run it as root; a container has to be privileged", "uid", os.Geteuid())
	}
	switch info, err := os.Stat(cfg.KubeletDir); {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
		logger.Error(nil,
			"Kubelet's directory is not there: no pod can get a volume. Give --kubelet-dir what kubelet has as --root-dir; "+
				"a container has to have it mounted at the same path",
			"kubeletDir", cfg.KubeletDir)
	case err != nil:
		logger.Error(err, "Kubelet's directory cannot be looked at", "kubeletDir", cfg.KubeletDir)
	}
}
