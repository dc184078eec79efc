package apiserver

import (
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestServerAnswersAndLogsWhoAsked(t *testing.T) {
	built, err := IsBuilt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !built {
		t.Skip("needs the programs of test/cluster, which are not in the cache: run `make e2e`")
	}
	s, err := Start(t.Context(), Options{
		Dir: t.TempDir(), Controllers: []string{"persistentvolume-binder-controller"}, Progress: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	client, err := s.Client("tester", adminGroup)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.AuditLog())
	if err != nil || !strings.Contains(string(log), `"userAgent":"tester"`) {
		t.Errorf("the audit log has no request of this test (%v)", err)
	}
}
