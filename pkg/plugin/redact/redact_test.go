package redact

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"

func TestSecretsLeaveATextAndTheRestStays(t *testing.T) {
	for text, secret := range map[string]string{
		`"Call" token=` + jwt + ` node=a`:                                 jwt,
		"Authorization: Bearer abcdefgh12345678":                          "abcdefgh12345678",
		`{"password":"hunter2","node":"a"}`:                               "hunter2",
		"secret: swordfish end":                                           "swordfish",
		"https://user:hunter2@example.com/path":                           "hunter2",
		"-----BEGIN RSA PRIVATE KEY-----\nAAAA\nBBBB":                     "AAAA",
		"a\n-----BEGIN PRIVATE KEY-----\nQ\n-----END PRIVATE KEY-----\nb": "\nQ\n",
		"API_KEY=0123456789":                                              "0123456789",
	} {
		got := Text(text)
		if strings.Contains(got, secret) || !strings.Contains(got, Hidden) {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{
		`"Volume made" volumeID="7a3baca9c553-pvc-1" bytes=5`, "kubectl get secrets", "2026-11-29 ok",
		"code = ResourceExhausted desc = 5 bytes wanted",
	} {
		if got := Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestObjectsKeepNoValuesOfTheirOwners(t *testing.T) {
	m := metav1.ObjectMeta{
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}},
		Annotations: map[string]string{
			core.LastAppliedConfigAnnotation: "x", "example.com/password": "x",
			"volume.kubernetes.io/selected-node": "a", "hostpath.csi.local/node": "a",
		},
	}
	Meta(&m, "hostpath.csi.local")
	if len(m.Annotations) != 2 || m.ManagedFields != nil {
		t.Errorf("%+v", m)
	}
	spec := core.PodSpec{Containers: []core.Container{{
		Env:  []core.EnvVar{{Name: "A", Value: "swordfish"}, {Name: "B"}},
		Args: []string{"--controller-token=/var/run/token", "--password=swordfish", "--v=2"},
	}}}
	spec.EphemeralContainers = []core.EphemeralContainer{{
		EphemeralContainerCommon: core.EphemeralContainerCommon{
			Env: []core.EnvVar{{Name: "A", Value: "swordfish"}}, Command: []string{"--token=swordfish"},
		},
	}}
	PodSpec(&spec)
	debug := spec.EphemeralContainers[0]
	if debug.Env[0].Value != Hidden || strings.Contains(debug.Command[0], "swordfish") {
		t.Errorf("%+v", debug)
	}
	c := spec.Containers[0]
	if c.Env[0].Value != Hidden || c.Env[1].Value != "" ||
		c.Args[0] != "--controller-token=/var/run/token" ||
		strings.Contains(c.Args[1], "swordfish") || c.Args[2] != "--v=2" {
		t.Errorf("%+v", c)
	}
}
