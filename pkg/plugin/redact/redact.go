// Package redact takes out of objects and logs what a report of a fault must not have: tokens,
// passwords, keys, values of environment variables, annotations of others.
package redact

import (
	"regexp"
	"strings"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Hidden stands for what was taken out.
const Hidden = "<redacted>"

// secrets are what looks like a secret in a text. What the first group has stays.
var secrets = []*regexp.Regexp{
	// JSON web tokens, as service accounts have them (RFC 7519).
	regexp.MustCompile(`()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`),
	regexp.MustCompile(`(?s)()-----BEGIN [A-Z ]*PRIVATE KEY-----.*?` +
		`(-----END [A-Z ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|credential)s?"?` +
		`\s*[:=]\s*"?)[^\s",}]+`),
	regexp.MustCompile(`(://[^/\s:@]+:)[^/\s@]+@`), // a password in a URL
}

// Text takes secrets out of a text.
func Text(text string) string {
	for _, secret := range secrets {
		text = secret.ReplaceAllString(text, "${1}"+Hidden)
	}
	return text
}

// Meta keeps of an object's metadata what says something about Kubernetes or the driver. An
// annotation of others may have anything.
func Meta(m *metav1.ObjectMeta, driver string) {
	m.ManagedFields = nil
	for key := range m.Annotations {
		if key == core.LastAppliedConfigAnnotation ||
			!strings.Contains(key, "kubernetes.io/") && !strings.Contains(key, driver) {
			delete(m.Annotations, key)
		}
	}
}

// PodSpec hides the values of environment variables, and secrets in arguments and commands, of all
// containers, also of those that somebody has added to debug a pod.
func PodSpec(s *core.PodSpec) {
	for _, containers := range [][]core.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			container(&containers[i])
		}
	}
	for i := range s.EphemeralContainers {
		container((*core.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func container(c *core.Container) {
	for i := range c.Env {
		if c.Env[i].Value != "" {
			c.Env[i].Value = Hidden
		}
	}
	for _, words := range [][]string{c.Args, c.Command} {
		for i := range words {
			words[i] = argument(words[i])
		}
	}
}

// argument hides the secret in an argument. The path of a file with a secret is none.
func argument(word string) string {
	if name, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(value, "/") {
		return name + "=" + value
	}
	return Text(word)
}
