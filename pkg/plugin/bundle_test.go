package plugin

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/doctor"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
)

// foreign is what no file of the archive may have.
const foreign = "foreign-marker"

func eventAbout(namespace, name, message string) *core.Event {
	return &core.Event{
		ObjectMeta:     metaOf(namespace, name+".1"),
		InvolvedObject: core.ObjectReference{Namespace: namespace, Name: name},
		Message:        message,
	}
}

func TestTheArchiveHasNothingOfOtherDrivers(t *testing.T) {
	reader := &objects.Reader{Client: newTestCluster(t).client}
	installation, err := reader.Find(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	installation.DaemonSet.Spec.Template.Annotations = map[string]string{
		"example.com/config": foreign,
	}
	installation.Deployments[0].Spec.Template.Annotations = map[string]string{
		"example.com/config": foreign,
	}
	ours, others := claimOf("shop", "books", "pvc-1"), claimOf("shop", "other", "pvc-9")
	foreignVolume := volumeObject("pvc-9")
	foreignVolume.Spec.CSI.Driver = "other.example.com"
	gone := eventAbout("shop", "gone", "the claim is gone")
	gone.Source.Component = objects.DefaultDriver + "_controller-a"
	b := &bundle{driver: installation.Driver, files: map[string][]byte{}}
	b.addFacts(&doctor.Facts{
		Installation: installation,
		Claims:       []*core.PersistentVolumeClaim{ours, others},
		Volumes:      []*core.PersistentVolume{volumeObject("pvc-1"), foreignVolume},
		Classes: []*storage.StorageClass{
			{ObjectMeta: metaOf("", "ours"), Provisioner: objects.DefaultDriver},
			{
				ObjectMeta: metaOf("", "theirs"), Provisioner: "other.example.com",
				Parameters: map[string]string{"restuserkey": foreign},
			},
		},
		ClaimEvents: []*core.Event{
			eventAbout("shop", "books", "our claim"), eventAbout("shop", "other", foreign),
			eventAbout("bank", "books", foreign), gone,
		},
		VolumeEvents: []*core.Event{
			eventAbout("", "pvc-1", "our volume"), eventAbout("", "pvc-9", foreign),
		},
	})
	for name, content := range b.files {
		if strings.Contains(string(content), foreign) {
			t.Errorf("%s:\n%s", name, content)
		}
	}
	for name, want := range map[string][]string{
		"objects/storageclasses.yaml":    {"name: ours"},
		"objects/events-of-claims.yaml":  {"our claim", "the claim is gone"},
		"objects/events-of-volumes.yaml": {"our volume"},
		"objects/daemonset.json":         {"driver-name"},
	} {
		for _, text := range want {
			if !strings.Contains(string(b.files[name]), text) {
				t.Errorf("%s lacks %q:\n%s", name, text, b.files[name])
			}
		}
	}
}
