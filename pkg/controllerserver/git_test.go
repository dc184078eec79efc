package controllerserver

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// newGitController has no pool, and a rule for one server and one namespace.
func newGitController(t *testing.T) *Server {
	t.Helper()
	prefix, err := volume.ParseGitPrefix("https://git.example.com/team/")
	fixture.Must(t, err)
	return New(Options{
		Topology: map[string]string{"topology.example/node": "node-1"},
		Pools:    somePools{},
		Git: gitsource.NewRules([]gitsource.Rule{{
			Prefix: prefix, Namespaces: []string{"web"}, MaxSizeBytes: 1 << 30, MinPeriod: time.Minute,
		}}),
	})
}

// gitClass is what external-provisioner sends for a claim of namespace web.
func gitClass() *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               "pvc-1",
		VolumeCapabilities: mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY),
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 64 * mib},
		Parameters: map[string]string{
			"source": "git", "url": "https://git.example.com/team/site", "ref": "main", "period": "5m",
			volume.ParamPVCName: "site", volume.ParamPVCNamespace: "web", volume.ParamPVName: "pvc-1",
		},
	}
}

func TestClassWithContentOfGitIsItsAttributes(t *testing.T) {
	s := newGitController(t)
	resp, err := s.CreateVolume(t.Context(), gitClass())
	fixture.Must(t, err)
	v := resp.GetVolume()
	want := map[string]string{
		"source": "git", "url": "https://git.example.com/team/site", "ref": "main", "period": "5m",
		"size": "67108864",
	}
	if !maps.Equal(v.GetVolumeContext(), want) || v.GetCapacityBytes() != 64*mib ||
		!volume.IsReferenceID(v.GetVolumeId()) || len(v.GetAccessibleTopology()) != 1 {
		t.Errorf("%v", v)
	}
	again, err := s.CreateVolume(t.Context(), gitClass())
	if err != nil || !proto.Equal(resp, again) {
		t.Errorf("the volume was %v, and is %v, %v", resp, again, err)
	}
	validated, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: v.GetVolumeId(), VolumeContext: v.GetVolumeContext(),
		VolumeCapabilities: gitClass().GetVolumeCapabilities(),
	})
	if err != nil || validated.GetConfirmed() == nil {
		t.Errorf("%v, %v: want it confirmed", validated, err)
	}
	// There is no state: a volume of a repository that no rule allows any more can be deleted, too.
	s.Git = gitsource.NewRules(nil)
	_, err = s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
	fixture.Must(t, err)
}

func TestClassWithContentOfGitIsRefusedWithItsReason(t *testing.T) {
	s := newGitController(t)
	set := func(key, value string) func(*csi.CreateVolumeRequest) {
		return func(r *csi.CreateVolumeRequest) {
			if r.Parameters[key] = value; value == "" {
				delete(r.GetParameters(), key)
			}
		}
	}
	for title, tc := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		code   codes.Code
		words  string
	}{
		"another namespace": {
			set(volume.ParamPVCNamespace, "bank"), codes.PermissionDenied, "is for the namespaces [web]",
		},
		"no namespace": {
			set(volume.ParamPVCNamespace, ""), codes.PermissionDenied, "--extra-create-metadata",
		},
		"another server": {
			set("url", "https://example.com/team/site"), codes.PermissionDenied, "there is none for the URL",
		},
		"a prefix of its path only": {
			set("url", "https://git.example.com/teams/site"), codes.PermissionDenied, "there is none",
		},
		"too often": {set("period", "10s"), codes.PermissionDenied, "minPeriod"},
		"a password in the URL": {
			set("url", "https://user:hunter2@git.example.com/team/site"), codes.InvalidArgument, "Secret",
		},
		"no URL":            {set("url", ""), codes.InvalidArgument, `needs "url"`},
		"another source":    {set("source", "svn"), codes.InvalidArgument, "want git"},
		"an unknown key":    {set("branch", "main"), codes.InvalidArgument, "known"},
		"a size":            {set("size", "1Gi"), codes.InvalidArgument, `"size"`},
		"a key of a volume": {set("backing", "image"), codes.InvalidArgument, `"backing"`},
		"a claim that is too large": {
			func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 2 << 30 },
			codes.PermissionDenied, "maxSize",
		},
		"a raw block volume": {
			func(r *csi.CreateVolumeRequest) {
				r.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Block{
					Block: &csi.VolumeCapability_BlockVolume{},
				}
			}, codes.InvalidArgument, "git",
		},
		"a file system": {
			func(r *csi.CreateVolumeRequest) {
				r.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Mount{
					Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"},
				}
			}, codes.InvalidArgument, "git",
		},
		"a VolumeAttributesClass": {
			func(r *csi.CreateVolumeRequest) {
				r.MutableParameters = map[string]string{"trashRetention": "1h"}
			}, codes.InvalidArgument, "VolumeAttributesClass",
		},
		"a copy": {
			func(r *csi.CreateVolumeRequest) {
				r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
					Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "cccccccccccc-v"},
				}}
			}, codes.InvalidArgument, "nothing is copied",
		},
	} {
		t.Run(title, func(t *testing.T) {
			req := gitClass()
			tc.change(req)
			resp, err := s.CreateVolume(t.Context(), req)
			wantCode(t, err, tc.code)
			if err == nil || !strings.Contains(err.Error(), tc.words) ||
				strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, %v: want %q", resp, err, tc.words)
			}
		})
	}
}

// What a volume of a pool can do, content of git cannot. The message says what it is.
func TestContentOfGitIsNeitherGrownNorCopied(t *testing.T) {
	s := newGitController(t)
	created, err := s.CreateVolume(t.Context(), gitClass())
	fixture.Must(t, err)
	id := created.GetVolume().GetVolumeId()
	_, grown := s.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 * mib},
	})
	_, modified := s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
		VolumeId: id, MutableParameters: map[string]string{"trashRetention": "1h"},
	})
	_, cut := s.CreateSnapshot(t.Context(),
		&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
	_, cloned := s.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "clone", VolumeCapabilities: mounted(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER),
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
		}},
	})
	for what, err := range map[string]error{
		"grown": grown, "modified": modified, "a snapshot": cut, "cloned": cloned,
	} {
		wantCode(t, err, codes.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), "content of git") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
