package kube

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/certs"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// What only a real API server does: it checks tokens, and changes of objects that have changed
// meanwhile.
func TestWithARealAPIServer(t *testing.T) {
	client, err := apiserver.ForTest(t).Admin()
	fixture.Must(t, err)
	t.Run("TokenOfANodesPodProvesTheNode", func(t *testing.T) { testTokens(t, client) })
	t.Run("ReplicasThatRecordAtOnceAgree", func(t *testing.T) { testRecord(t, client) })
	t.Run("OfReplicasThatSaveTheCAOneWins", func(t *testing.T) { testAuthority(t, client) })
	t.Run("OneOfTwoLeadsAndTheOtherFollowsAtOnce", func(t *testing.T) { testLease(t, client) })
}

func testTokens(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for _, name := range []string{"node", "other"} {
		fixture.Must(t, apiserver.CreateServiceAccount(t.Context(), client, name))
	}
	node, err := apiserver.CreatePod(t.Context(), client, "csi-hostpath-a", "node-a", "node")
	fixture.Must(t, err)
	other, err := apiserver.CreatePod(t.Context(), client, "other-a", "node-a", "other")
	fixture.Must(t, err)
	token := func(pod *core.Pod, audience string) string {
		token, err := apiserver.Token(t.Context(), client, pod, audience)
		fixture.Must(t, err)
		return token
	}
	good := token(node, audience)
	a := NewAuthenticator(client, audience, core.NamespaceDefault, "node")
	if name, err := a.NodeOf(t.Context(), good); err != nil || name != "node-a" {
		t.Errorf("%q, %v: want node-a", name, err)
	}
	for want, token := range map[string]string{
		"audience":        token(node, apiserver.Issuer),
		"default:other":   token(other, audience),
		"refuses it: [in": good + "x",
		"refuses it: inv": "no token",
	} {
		if name, err := a.NodeOf(t.Context(), token); name != "" || !errors.Is(err, ErrNotANode) ||
			!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) {
			t.Errorf("%q, %v: want %s", name, err, want)
		}
	}
	fixture.Must(t, client.CoreV1().Pods(node.Namespace).Delete(t.Context(), node.Name,
		metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	fixture.Eventually(t, "the token of a pod that is gone is refused", func() bool {
		_, err := a.NodeOf(t.Context(), good) // the API server keeps answers for 10 s
		return errors.Is(err, ErrNotANode)
	})
}

func testRecord(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	claims := client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault)
	_, err := claims.Create(t.Context(), &core.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{"mine": "kept"}},
		Spec: core.PersistentVolumeClaimSpec{
			AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			Resources: core.VolumeResourceRequirements{
				Requests: core.ResourceList{core.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
	}, metav1.CreateOptions{})
	fixture.Must(t, err)
	r := NewRecorder(client)
	nodes := make([]string, 8)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			node, err := r.Record(t.Context(), core.NamespaceDefault, "data", "node-"+strconv.Itoa(i))
			if err != nil {
				t.Error(err)
			}
			nodes[i] = node
		})
	}
	wg.Wait()
	claim, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
	fixture.Must(t, err)
	for _, node := range nodes {
		if want := claim.Annotations[SelectedNode]; node != want || want == "" {
			t.Errorf("the claim has %q, the replicas got %q", want, nodes)
			break
		}
	}
	if claim.Annotations["mine"] != "kept" {
		t.Errorf("annotations %v", claim.Annotations)
	}
	if _, err := r.Record(t.Context(), core.NamespaceDefault, "gone", "node-1"); !errors.Is(err,
		ErrNoClaim) {
		t.Errorf("a claim that is gone: %v", err)
	}
}

func testAuthority(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "ca"}
	_, err := client.CoreV1().Secrets(core.NamespaceDefault).Create(t.Context(), &core.Secret{
		ObjectMeta: meta, Data: map[string][]byte{"other": []byte("kept")},
	}, metav1.CreateOptions{})
	fixture.Must(t, err)
	_, err = client.CoreV1().ConfigMaps(core.NamespaceDefault).Create(t.Context(),
		&core.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
	fixture.Must(t, err)
	a := NewAuthority(client, core.NamespaceDefault, "ca", "ca")
	data, version, err := a.Load(t.Context())
	if err != nil || len(data) != 0 {
		t.Fatalf("%q, %v: nothing was saved", data, err)
	}
	fixture.Must(t, a.Save(t.Context(), []byte("first"), version))
	if err := a.Save(t.Context(), []byte("second"), version); !errors.Is(err, certs.ErrConflict) {
		t.Errorf("a second save of the same version: %v", err)
	}
	if data, _, err := a.Load(t.Context()); err != nil || string(data) != "first" {
		t.Errorf("%q, %v", data, err)
	}
	secrets := client.CoreV1().Secrets(core.NamespaceDefault)
	secret, err := secrets.Get(t.Context(), "ca", metav1.GetOptions{})
	if err != nil || string(secret.Data["other"]) != "kept" {
		t.Errorf("%q, %v", secret.Data, err)
	}
	published := func() (bundle, version string) {
		configMaps := client.CoreV1().ConfigMaps(core.NamespaceDefault)
		m, err := configMaps.Get(t.Context(), "ca", metav1.GetOptions{})
		fixture.Must(t, err)
		return m.Data["ca.crt"], m.ResourceVersion
	}
	fixture.Must(t, a.Publish(t.Context(), []byte("bundle")))
	bundle, version := published()
	fixture.Must(t, a.Publish(t.Context(), []byte("bundle")))
	if _, now := published(); bundle != "bundle" || now != version {
		t.Errorf("%q; what is published is written again (%s, then %s)", bundle, version, now)
	}
	absent := NewAuthority(client, core.NamespaceDefault, "absent", "absent")
	_, _, err = absent.Load(t.Context())
	if err == nil || !strings.Contains(err.Error(), "default/absent") {
		t.Errorf("a Secret that the chart has not made: %v", err)
	}
}

func testLease(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	timing := leaseTiming{leaseDuration, renewDeadline, time.Second / 2}
	var mu sync.Mutex
	leading := "" // at most one at a time
	leaders := make(chan string, 10)
	lead := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			mu.Lock()
			if leading != "" {
				t.Errorf("%s leads while %s does", name, leading)
			}
			leading = name
			mu.Unlock()
			leaders <- name
			<-ctx.Done()
			time.Sleep(10 * time.Millisecond) // what is under way when the end comes
			mu.Lock()
			leading = ""
			mu.Unlock()
			return nil
		}
	}
	stops, ended := map[string]context.CancelFunc{}, make(chan error, 2)
	for _, name := range []string{"a", "b"} {
		ctx, stop := context.WithCancel(t.Context())
		stops[name] = stop
		t.Cleanup(stop)
		lease := Lease{Namespace: core.NamespaceDefault, Name: "lifecycle", Identity: name}
		go func() { ended <- runAsLeader(ctx, client, lease, timing, lead(name)) }()
	}
	first := <-leaders
	stops[first]()
	second := <-leaders // long before the lease runs out
	if first == second {
		t.Errorf("%s leads twice", first)
	}
	fixture.Must(t, <-ended)
	stops[second]()
	fixture.Must(t, <-ended)
	failing := Lease{Namespace: core.NamespaceDefault, Name: "lifecycle", Identity: "c"}
	failure := errors.New("broken")
	if err := runAsLeader(t.Context(), client, failing, timing, func(context.Context) error {
		return failure
	}); !errors.Is(err, failure) {
		t.Errorf("the error of what runs is lost: %v", err)
	}
}
