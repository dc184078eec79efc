package sanity

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/controller"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// volumeSize is small enough that all volumes of a configuration fit into its pool together, also
	// if none of them was purged yet.
	volumeSize = 1 << 20

	// The directories of targets and staging paths, relative to kubelet's directory.
	targetParent = "pods/6f1d8b0e-4a57-4c0f-9d0a-0c5be1a7a2f1/volumes/kubernetes.io~csi/pvc-1"
	stagingPath  = "plugins/kubernetes.io/csi/hostpath.csi.local/8d5a4f/globalmount"
)

// kind is the kind of all volumes of a configuration.
type kind struct {
	name       string
	parameters map[string]string
	// fsType is the class's fsType, which external-provisioner and kubelet put into the capabilities.
	fsType string
	block  bool
	bytes  int64 // the size of a volume
	// expandedBytes is the size that a volume is expanded to; 0 is twice its size.
	expandedBytes int64
	path          csisanity.PathKind
	// central has the calls of Controller go through the router and the link.
	central bool
}

// kinds are those that are tested on a filesystem.
func kinds(fstype string) []kind {
	all := []kind{
		{
			name:       "directory",
			parameters: map[string]string{volume.ParamType: string(volume.DirectoryOrCreate)},
			bytes:      volumeSize,
			path:       csisanity.PathIsDir,
		},
		{
			name:       "file",
			parameters: map[string]string{volume.ParamType: string(volume.FileOrCreate)},
			bytes:      volumeSize,
			path:       csisanity.PathIsFile,
		},
	}
	// images do not depend on project quotas, and are slow where the processor is emulated
	if os.Getenv(disks.ProjectQuotaEnv) != "" {
		return all
	}
	if fstype == disks.XFS {
		all = append(all, kind{
			name:    "image" + centralSuffix,
			fsType:  disks.XFS,
			bytes:   volume.XFS.MinimumBytes(),
			path:    csisanity.PathIsDir,
			central: true,
		})
	}
	return append(
		all,
		// XFS, because ext4 grows only with CAP_SYS_RESOURCE.
		kind{
			name:   "image",
			fsType: disks.XFS,
			bytes:  volume.XFS.MinimumBytes(),
			path:   csisanity.PathIsDir,
		},
		kind{name: "block", block: true, bytes: volumeSize, path: csisanity.PathIsOther},
		// A directory on btrfs, else an image with ext4, which is not to grow: see above.
		kind{
			name:          "enforced",
			parameters:    map[string]string{volume.ParamBacking: string(volume.EnforcedBacking)},
			bytes:         volume.Ext4.MinimumBytes(),
			expandedBytes: volume.Ext4.MinimumBytes(),
			path:          csisanity.PathIsDir,
		},
	)
}

// configuration is a driver with one pool that makes volumes of one kind.
type configuration struct {
	kind

	fstype  string
	pool    string // the pool's directory
	process *process.Process
	config  csisanity.TestConfig
}

func (c *configuration) name() string { return c.fstype + " " + c.kind.name }

// start starts the driver, and stops it when the test ends.
func start(
	t *testing.T, disk disks.Disk, fstype string, k kind, options process.Options,
) *configuration {
	t.Helper()
	c := &configuration{fstype: fstype, kind: k, pool: filepath.Join(disk.Dir, k.name)}
	options.Pools = map[string]string{"default": c.pool}
	options.Log = ginkgo.GinkgoWriter // Ginkgo shows the log of a failed spec
	var central *controller.Controller
	if k.central {
		central = controller.Start(t, router.Options{})
		options.Args = append(options.Args, central.Args(process.NodeName)...)
	}
	var err error
	if c.process, err = process.StartReady(t.Context(), options); err != nil {
		t.Fatalf("%s: %v", c.name(), err)
	}
	t.Cleanup(func() {
		if err := c.process.Stop(); err != nil {
			t.Errorf("%s: the driver does not stop cleanly: %v", c.name(), err)
		}
	})
	id := poolID(t, c.process.Controller)
	c.config = c.testConfig(id)
	if central != nil {
		central.WaitPool(id)
		c.config.ControllerAddress = central.Socket
	}
	return c
}

func (c *configuration) testConfig(pool volume.PoolID) csisanity.TestConfig {
	// With a struct literal csi-test would skip the tests of idempotency.
	config := csisanity.NewTestConfig()
	config.Address = c.process.Socket()
	config.TargetPath = filepath.Join(c.process.KubeletDir(), targetParent)
	config.CreateTargetDir = makeDir
	config.RemoveTargetPath = removeDir
	config.CheckPath = c.checkPath // without this function csi-test skips "should remove target path"
	config.StagingPath = filepath.Join(c.process.KubeletDir(), stagingPath)
	config.CreateStagingDir = makeDir
	config.RemoveStagingPath = removeDir
	config.IDGen = ids{pool: pool}
	config.ControllerDialOptions = append(config.ControllerDialOptions,
		grpc.WithUnaryInterceptor(sizeReply))
	config.DialOptions = append(config.DialOptions, grpc.WithUnaryInterceptor(sizeReply))
	if c.fsType != "" {
		config.ControllerDialOptions = append(config.ControllerDialOptions,
			grpc.WithChainUnaryInterceptor(c.sayFSType))
		config.DialOptions = append(config.DialOptions, grpc.WithChainUnaryInterceptor(c.sayFSType))
	}
	if c.block {
		config.TestVolumeAccessType = "block"
	}
	config.TestVolumeSize = c.bytes
	config.TestVolumeExpandSize = cmp.Or(c.expandedBytes, 2*c.bytes)
	config.TestVolumeParameters = c.parameters
	config.TestVolumeMutableParameters = map[string]string{"trashRetention": "0s"}
	return config
}

// sayFSType puts the fsType into the capabilities of a request, because csi-test has no setting for
// it.
func (c *configuration) sayFSType(
	ctx context.Context,
	method string,
	req, reply any,
	cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	var capabilities []*csi.VolumeCapability
	switch req := req.(type) {
	case interface{ GetVolumeCapability() *csi.VolumeCapability }:
		capabilities = []*csi.VolumeCapability{req.GetVolumeCapability()}
	case interface {
		GetVolumeCapabilities() []*csi.VolumeCapability
	}:
		capabilities = req.GetVolumeCapabilities()
	}
	for _, capability := range capabilities {
		if m := capability.GetMount(); m != nil {
			m.FsType = c.fsType
		}
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// register adds all of csi-test's specs for this configuration to the suite.
func (c *configuration) register(t *testing.T) {
	t.Helper()
	ginkgo.Describe(c.name(), func() {
		specs := csisanity.GinkgoTest(&c.config)
		t.Cleanup(specs.Finalize)
	})
}

// poolID returns the part of every volume ID that names the pool.
func poolID(t *testing.T, client csi.ControllerClient) volume.PoolID {
	t.Helper()
	created, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name:          "which-pool",
		CapacityRange: &csi.CapacityRange{RequiredBytes: volumeSize},
		VolumeCapabilities: []*csi.VolumeCapability{
			{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
				AccessMode: &csi.VolumeCapability_AccessMode{
					Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
				},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := volume.ParseID(created.GetVolume().GetVolumeId())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteVolume(
		t.Context(),
		&csi.DeleteVolumeRequest{VolumeId: id.String()},
	); err != nil {
		t.Fatal(err)
	}
	return id.Pool()
}

// sizeReply lets csi-test compare a topology of an answer with one of its request. csi-test
// compares the Go structures (CreateSnapshot, "should succeed when creating a snapshot with
// accessibility requirements"), and protobuf keeps the encoded size in a structure that was sent.
// So sizeReply computes that size in the answer, too.
func sizeReply(
	ctx context.Context,
	method string,
	req, reply any,
	cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if message, ok := reply.(proto.Message); ok {
		proto.Size(message)
	}
	return err
}

// ids makes volume IDs that have the form of this driver's IDs and belong to no volume. The IDs of
// csi-test's own program have another form: stock_test.go. (The ID of another node's pool is an
// error also in DeleteVolume: pkg/controllerserver tests that.)
type ids struct {
	csisanity.DefaultIDGenerator
	pool volume.PoolID
}

// GenerateUniqueValidVolumeID returns an ID whose directory is the volume's name.
func (g ids) GenerateUniqueValidVolumeID() string { return string(g.pool) + "-" + rand.Text() }

// GenerateInvalidVolumeID returns an ID whose directory is a hash of the volume's name.
func (g ids) GenerateInvalidVolumeID() string {
	return string(g.pool) + "-h-" + strings.Repeat("0", 40)
}

// makeDir makes a directory as kubelet does before it calls the driver.
func makeDir(path string) (string, error) { return path, os.MkdirAll(path, 0o750) }

// removeDir fails the spec itself if the driver has left something in the directory, because
// csi-test ignores the error.
func removeDir(path string) error {
	if err := os.Remove(path); err != nil {
		ginkgo.Fail(fmt.Sprintf("after the spec, kubelet cannot remove its directory: %v", err))
	}
	return nil
}

// checkPath says what is at a target. It returns an error if something else than a mount of this
// configuration's type is there.
func (c *configuration) checkPath(path string) (csisanity.PathKind, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return csisanity.PathIsNotFound, nil
	}
	if err != nil {
		return "", err
	}
	mounts, err := mount.Table()
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Point == path }) {
		return "", fmt.Errorf("%s exists, and nothing is mounted on it", path)
	}
	is := csisanity.PathIsOther
	switch {
	case info.IsDir():
		is = csisanity.PathIsDir
	case info.Mode().IsRegular():
		is = csisanity.PathIsFile
	}
	if is != c.path || c.block != (info.Mode().Type() == fs.ModeDevice) {
		return "", fmt.Errorf("%s has mode %s, which is no %s volume", path, info.Mode(), c.kind.name)
	}
	return is, nil
}
