package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/funcr"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2/textlogger"
)

const (
	secret = "S3CR3T-hunter2"
	public = "visible"
)

// shown repeats the allow-list: the fields and keys that the log may show.
var (
	shownFields = []string{
		"volume_id",
		"name",
		"node_id",
		"starting_token",
		"snapshot_id",
		"snapshot_ids",
		"group_snapshot_id",
		"source_volume_id",
		"source_volume_ids",
		"fs_type",
		"volume_mount_group",
		"segments",
		"staging_target_path",
		"target_path",
		"volume_path",
		"volume_publish_path",
	}
	shownKeys = []string{
		"pool", "type", "mode", "uid", "gid",
		"csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "csi.storage.k8s.io/pv/name",
	}
)

// renderings returns the request in every form in which the driver, a logger or a careless line
// could print it.
func renderings(t testing.TB, req any) map[string]string {
	t.Helper()
	r := Redact(req)
	out := map[string]string{"String": r.String(), "GoString": r.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		out[verb] = fmt.Sprintf(verb, r)
		out["&"+verb] = fmt.Sprintf(verb, &r)
		out["in a struct "+verb] = fmt.Sprintf(verb, struct{ r, R any }{r, []any{r}})
		out["hidden "+verb] = fmt.Sprintf(verb, struct{ r Redacted }{r})
	}
	text, err := json.Marshal(map[string]any{"request": r})
	if err != nil {
		t.Fatal(err)
	}
	out["json"] = string(text)
	out["logr"] = fmt.Sprint(r.MarshalLog())
	out["error"] = fmt.Errorf("%v: %w", r, errors.ErrUnsupported).Error()

	var klogText, slogText, slogJSON, plain bytes.Buffer
	textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&klogText))).Info("x", "request", r)
	slog.New(slog.NewTextHandler(&slogText, nil)).Info("x", "request", r)
	slog.New(slog.NewJSONHandler(&slogJSON, nil)).Info("x", "request", r)
	funcr.New(func(_, args string) { plain.WriteString(args) },
		funcr.Options{}).Info("x", "request", r)
	out["klog text"], out["funcr"] = klogText.String(), plain.String()
	out["slog text"], out["slog json"] = slogText.String(), slogJSON.String()
	return out
}

func TestNoSecretIsEverRendered(t *testing.T) {
	for m := range requests(t) {
		desc := m.ProtoReflect().Descriptor()
		for _, chain := range textChains(desc, nil) {
			last := chain[len(chain)-1]
			if slices.Contains(shownFields, string(last.Name())) {
				continue
			}
			req := m.ProtoReflect().New()
			placeText(req, chain, "some-key", secret)
			if last.Name() == "secrets" {
				for _, key := range shownKeys {
					placeText(req, chain, key, secret)
				}
				placeText(req, chain, secret, "x")
			}
			for how, text := range renderings(t, req.Interface()) {
				if strings.Contains(text, secret) {
					t.Errorf("%s.%s printed with %s shows the secret: %s", desc.Name(), chainName(chain), how,
						text)
				}
			}
		}
	}
}

func TestWhatACallIsAboutIsShown(t *testing.T) {
	for m := range requests(t) {
		desc := m.ProtoReflect().Descriptor()
		for _, chain := range textChains(desc, nil) {
			last := chain[len(chain)-1]
			switch {
			case slices.Contains(shownFields, string(last.Name())):
				req := m.ProtoReflect().New()
				placeText(req, chain, "topology.example/zone", public)
				if text := Redact(req.Interface()).String(); !strings.Contains(text, public) {
					t.Errorf("%s.%s is hidden: %s", desc.Name(), chainName(chain), text)
				}
			case last.IsMap() && last.Name() != "secrets":
				for _, key := range shownKeys {
					req := m.ProtoReflect().New()
					placeText(req, chain, key, public)
					if text := Redact(req.Interface()).String(); !strings.Contains(text, public) {
						t.Errorf("%s.%s[%s] is hidden: %s", desc.Name(), chainName(chain), key, text)
					}
				}
			}
		}
	}
}

func TestRedactLeavesTheRequestAlone(t *testing.T) {
	req := &csi.NodePublishVolumeRequest{
		VolumeId:      "v",
		Secrets:       map[string]string{"a": "b"},
		VolumeContext: map[string]string{"c": "d"},
	}
	before := proto.Clone(req)
	_ = Redact(req).String()
	if !proto.Equal(before, req) {
		t.Errorf("the request has changed: %v", req)
	}
}

func TestRedactTakesWhatIsNoMessage(t *testing.T) {
	tests := []struct {
		name string
		msg  any
		want string
	}{
		{"nil", nil, `"<nil>"`},
		{"a text", secret, `"string"`},
		{"a struct", struct{ Password string }{secret}, `"struct { Password string }"`},
		{"a nil request", (*csi.NodePublishVolumeRequest)(nil), "{}"},
		{"a nil interface inside", new(any), `"*interface {}"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Redact(tt.msg).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if got := fmt.Sprint(Redacted{}); got != "null" {
		t.Errorf("the zero value prints %s", got)
	}
}

func TestLongTextsAreClipped(t *testing.T) {
	req := &csi.DeleteVolumeRequest{VolumeId: strings.Repeat("é", 1<<20)}
	text := Redact(req).String()
	if len(text) > 300 || !strings.Contains(text, "(2097152 bytes)") {
		t.Errorf("%d bytes: %.300s", len(text), text)
	}
}

func TestJSONLogHasTheRequestAsFields(t *testing.T) {
	text, err := json.Marshal(
		Redact(&csi.DeleteVolumeRequest{VolumeId: "v", Secrets: map[string]string{"a": "b"}}),
	)
	if want := `{"secrets":"***stripped***","volume_id":"v"}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v; want %s", text, err, want)
	}
}

// FuzzRedact puts arbitrary texts into the fields for secrets, and looks for the texts in the log.
func FuzzRedact(f *testing.F) {
	f.Add("password", "hunter2", "pool")
	f.Add("\x00", `"},{"`, "mode")
	f.Add("csi.storage.k8s.io/pv/name", "%!s(MISSING)\n\tI0000", "uid")
	f.Fuzz(func(t *testing.T, key, value, other string) {
		// Hexadecimal after a marker, so that the text cannot be in the log for another reason.
		hidden := fmt.Sprintf("%s-%x", secret, value)
		req := &csi.NodePublishVolumeRequest{
			VolumeId: value, TargetPath: other,
			Secrets:        map[string]string{key: hidden, other: hidden, hidden: key},
			VolumeContext:  map[string]string{"!" + key: hidden},
			PublishContext: map[string]string{"!" + other: hidden},
			VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{
				Mount: &csi.VolumeCapability_MountVolume{MountFlags: []string{hidden, key}},
			}},
		}
		for how, text := range renderings(t, req) {
			if strings.Contains(text, hidden) && !strings.Contains(key+value+other, secret) {
				t.Errorf("%s shows a secret: %s", how, text)
			}
		}
		if !json.Valid([]byte(Redact(req).String())) {
			t.Errorf("not JSON: %s", Redact(req))
		}
	})
}
