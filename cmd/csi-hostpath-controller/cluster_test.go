package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// asController makes the test binary the program.
const asController = "CSI_HOSTPATH_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	if os.Getenv(asController) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// nodeName is what test/process calls the driver's node.
const nodeName = "node-1"

// cluster is an API server, a controller and a node's driver, each a process.
type cluster struct {
	t      *testing.T
	dir    string
	server *apiserver.Server
	client *kubernetes.Clientset
	// kubeconfig has the token of the controller's pod, whose name is the host's: sidecars call
	// themselves so.
	kubeconfig string
	args       []string // the controller's
	log        process.Log
	pages      string // the URL of the controller's pages
	links      string // the address of its links

	controller *process.Program
	driver     *fixture.Driver
	sidecar    *grpc.ClientConn
}

// newCluster starts an API server with the chart's objects, and no controller yet. The controller
// has the rights that the chart gives it. args are added to its arguments.
func newCluster(t *testing.T, args ...string) *cluster {
	t.Helper()
	disks.RequireRoot(t)
	server := apiserver.ForTest(t)
	applyChart(t, server, "central")
	return newClusterOf(t, server, args...)
}

// newClusterOf is newCluster with an API server that has the chart's objects.
func newClusterOf(t *testing.T, server *apiserver.Server, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: filepath.Dir(fixture.Socket(t)), server: server}
	var err error
	c.client, err = server.Admin()
	fixture.Must(t, err)
	fixture.Must(t, apiserver.CreateServiceAccount(t.Context(), c.client, "other"))
	// The policies know the controller by its token, and its pod as the holder of its lease.
	host, err := os.Hostname()
	fixture.Must(t, err)
	pod, err := apiserver.CreatePod(t.Context(), c.client, host, nodeName, controllerAccount)
	fixture.Must(t, err)
	c.kubeconfig, err = server.PodKubeconfig(t.Context(), pod)
	fixture.Must(t, err)
	links, metrics := freeAddress(t), freeAddress(t)
	c.pages, c.links = "http://"+metrics, links
	c.args = append([]string{
		"serve", "--kubeconfig=" + c.kubeconfig, "--identity=" + identityOf(pod),
		"--endpoint=unix://" + c.socket(),
		"--link-address=" + links, "--metrics-address=" + metrics, "--namespace=default",
		"--node-service-account=default/" + nodeAccount, "--v=4",
	}, args...)
	t.Cleanup(func() {
		c.killController()
		if t.Failed() {
			t.Logf("the controller's log:\n%s", c.log.String())
		}
	})
	binary, err := process.Build(t.Context(), t.TempDir())
	fixture.Must(t, err)
	c.driver = fixture.NewDriver(t, process.Options{
		Binary: binary, Dir: c.dir, Pools: map[string]string{"default": filepath.Join(c.dir, "pool")},
		Args: []string{
			"--controller-address=" + links, "--controller-ca=" + c.file("ca.crt"),
			"--controller-token=" + c.file("token"), "--controller-server-name=" + controllerName,
		},
	})
	c.connect()
	return c
}

// identityOf is what the chart makes of a pod.
func identityOf(pod *core.Pod) string { return pod.Name + "_" + string(pod.UID) }

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }
func (c *cluster) socket() string          { return c.file("router.sock") }

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	fixture.Must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// connect is what a sidecar does.
func (c *cluster) connect() {
	c.t.Helper()
	conn, err := grpc.NewClient("unix://"+c.socket(), grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	fixture.Must(c.t, err)
	c.sidecar = conn
	c.t.Cleanup(func() { fixture.Must(c.t, conn.Close()) })
}

func (c *cluster) startController() {
	c.t.Helper()
	p, err := process.StartProgram(process.ProgramOptions{
		Binary: os.Args[0], Args: c.args, Env: []string{asController + "=1"}, Log: &c.log,
	})
	fixture.Must(c.t, err)
	c.controller = p
	fixture.Eventually(c.t, "the controller is ready", func() bool {
		code, _ := c.page("/readyz")
		return code == http.StatusOK
	})
}

// killController ends the controller as kill -9 does.
func (c *cluster) killController() {
	c.t.Helper()
	if p := c.controller; p != nil {
		c.controller = nil
		fixture.Must(c.t, p.Kill())
	}
}

// stopController ends the controller as kubelet does. The lease is then free for another replica.
func (c *cluster) stopController() {
	c.t.Helper()
	fixture.Eventually(c.t, "the controller is the leader", func() bool {
		_, text := c.page("/statusz")
		return strings.Contains(text, "this replica is the leader")
	})
	p := c.controller
	c.controller = nil
	fixture.Must(c.t, p.Stop(fixture.Patience()))
	lease, err := c.client.CoordinationV1().Leases(core.NamespaceDefault).Get(c.t.Context(),
		leaseOf("hostpath.csi.local"), metav1.GetOptions{})
	fixture.Must(c.t, err)
	if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" {
		c.t.Errorf("the lease is still held by %s", *holder)
	}
}

// page is a page of the controller; 0: it does not answer.
func (c *cluster) page(path string) (code int, text string) {
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.pages+path, nil)
	fixture.Must(c.t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(body)
}

func (c *cluster) waitLinked() {
	c.t.Helper()
	fixture.Eventually(c.t, "the node is linked", func() bool {
		_, text := c.page("/statusz")
		return strings.Contains(text, "node "+nodeName+": linked since") &&
			!strings.Contains(text, "has not sent")
	}, func() any { _, text := c.page("/statusz"); return text })
}

// put replaces a file at once, as kubelet does.
func (c *cluster) put(name string, content []byte) {
	c.t.Helper()
	fixture.Must(c.t, os.WriteFile(c.file(name+".new"), content, 0o600))
	fixture.Must(c.t, os.Rename(c.file(name+".new"), c.file(name)))
}

// projectCA does what kubelet does with the ConfigMap: it becomes a file.
func (c *cluster) projectCA() {
	c.t.Helper()
	m, err := c.client.CoreV1().ConfigMaps(core.NamespaceDefault).Get(c.t.Context(), authority,
		metav1.GetOptions{})
	fixture.Must(c.t, err)
	if m.Data["ca.crt"] == "" {
		c.t.Fatal("the controller is ready and has not published its CA")
	}
	c.put("ca.crt", []byte(m.Data["ca.crt"]))
}

// pod makes a pod of the driver on a node.
func (c *cluster) pod(name, node, serviceAccount string) *core.Pod {
	c.t.Helper()
	pod, err := apiserver.CreatePod(c.t.Context(), c.client, name, node, serviceAccount)
	fixture.Must(c.t, err)
	return pod
}

// putToken gives the driver a token of a pod for an audience.
func (c *cluster) putToken(pod *core.Pod, audience string) {
	c.t.Helper()
	token, err := apiserver.Token(c.t.Context(), c.client, pod, audience)
	fixture.Must(c.t, err)
	c.put("token", []byte(token))
}

func (c *cluster) create(name string, parameters map[string]string) (*csi.Volume, error) {
	answer, err := csi.NewControllerClient(c.sidecar).CreateVolume(c.t.Context(),
		&csi.CreateVolumeRequest{
			Name:               name,
			CapacityRange:      &csi.CapacityRange{RequiredBytes: 1 << 20},
			VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
			Parameters:         parameters,
		}, grpc.WaitForReady(true))
	return answer.GetVolume(), err
}

// eventuallyCreate is what external-provisioner does: it tries again after UNAVAILABLE.
func (c *cluster) eventuallyCreate(name string, parameters map[string]string) (v *csi.Volume) {
	c.t.Helper()
	fixture.Eventually(c.t, "volume "+name+" is made", func() (done bool) {
		var err error
		v, err = c.create(name, parameters)
		if err != nil && status.Code(err) != codes.Unavailable {
			c.t.Fatal(err)
		}
		return err == nil
	})
	return v
}

func (c *cluster) claim(name string) {
	c.t.Helper()
	_, err := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault).Create(c.t.Context(),
		&core.PersistentVolumeClaim{
			// What Kubernetes writes before external-provisioner takes the claim.
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Annotations: map[string]string{provisionerOf: driverName},
			},
			Spec: core.PersistentVolumeClaimSpec{
				AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
				Resources: core.VolumeResourceRequirements{
					Requests: core.ResourceList{core.ResourceStorage: resource.MustParse("1Mi")},
				},
			},
		}, metav1.CreateOptions{})
	fixture.Must(c.t, err)
}

// wantListsWithout has a node that is not linked: lists wait for it until it is deleted.
func (c *cluster) wantListsWithout(name string) {
	c.t.Helper()
	list := func() (*csi.ListVolumesResponse, error) {
		return csi.NewControllerClient(c.sidecar).ListVolumes(c.t.Context(), &csi.ListVolumesRequest{})
	}
	nodes, csiNodes := c.client.CoreV1().Nodes(), c.client.StorageV1().CSINodes()
	_, err := nodes.Create(c.t.Context(), &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name}},
		metav1.CreateOptions{})
	fixture.Must(c.t, err)
	_, err = csiNodes.Create(c.t.Context(), &storage.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: storage.CSINodeSpec{Drivers: []storage.CSINodeDriver{
			{Name: "hostpath.csi.local", NodeID: name},
		}},
	}, metav1.CreateOptions{})
	fixture.Must(c.t, err)
	fixture.Eventually(c.t, "lists wait for "+name, func() bool {
		_, err := list()
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), name)
	})
	fixture.Must(c.t, nodes.Delete(c.t.Context(), name, metav1.DeleteOptions{}))
	fixture.Eventually(c.t, "lists go on without "+name, func() bool {
		got, err := list()
		return err == nil && len(got.GetEntries()) == 1
	})
}

func TestClaimsGetVolumesThroughTheLinkWhateverIsKilled(t *testing.T) {
	c := newCluster(t, "--ca-secret="+authority, "--ca-configmap="+authority)
	c.startController()
	c.projectCA()
	c.putToken(c.pod("driver-1", nodeName, nodeAccount), controllerName)
	c.driver.Start()
	c.waitLinked()

	c.claim("data")
	ofClaim := map[string]string{
		"csi.storage.k8s.io/pvc/namespace": core.NamespaceDefault, "csi.storage.k8s.io/pvc/name": "data",
	}
	made := c.eventuallyCreate("pvc-1", ofClaim)
	claims := c.client.CoreV1().PersistentVolumeClaims(core.NamespaceDefault)
	claim, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
	fixture.Must(t, err)
	if got := claim.Annotations["volume.kubernetes.io/selected-node"]; got != nodeName {
		t.Errorf("the claim has node %q recorded, want %s", got, nodeName)
	}
	room, err := csi.NewControllerClient(c.sidecar).GetCapacity(t.Context(), &csi.GetCapacityRequest{
		AccessibleTopology: made.GetAccessibleTopology()[0],
	})
	if err != nil || room.GetAvailableCapacity() <= 0 {
		t.Errorf("capacity %v, %v", room, err)
	}
	c.wantListsWithout("node-2")
	for what, kill := range map[string]func(){
		"controller": func() { c.killController(); c.startController() },
		"driver":     func() { c.driver.Kill(); c.driver.Start() },
	} {
		kill()
		c.waitLinked()
		if again := c.eventuallyCreate("pvc-1", ofClaim); again.GetVolumeId() != made.GetVolumeId() {
			t.Errorf("after kill -9 of the %s the volume is %s, was %s", what, again.GetVolumeId(),
				made.GetVolumeId())
		}
	}
	if code, text := c.page("/metrics"); code != http.StatusOK ||
		!strings.Contains(text, `csi_hostpath_router_nodes{linked="true"} 1`) ||
		!strings.Contains(text, "csi_hostpath_controller_build_info{") ||
		!strings.Contains(text, `csi_hostpath_controller_leader{driver="hostpath.csi.local"} `) ||
		strings.Contains(text, "csi_hostpath_controller_certificate_expiry_timestamp_seconds 0\n") ||
		!strings.Contains(text, "csi_hostpath_controller_ca_expiry_timestamp_seconds 1.") {
		t.Errorf("metrics: %d\n%s", code, text)
	}
	c.stopController()
	if log := c.log.String(); strings.Contains(log, "forbidden") {
		t.Errorf("the chart does not give the controller what it needs:\n%s", log)
	}
}

func TestOnlyATokenOfTheNodesOwnPodIsTakenForTheNode(t *testing.T) {
	c := newCluster(t, "--ca-secret="+authority, "--ca-configmap="+authority)
	c.startController()
	c.projectCA()
	own := c.pod("driver-1", nodeName, nodeAccount)
	gone := c.pod("driver-2", nodeName, nodeAccount)
	wrong := []struct {
		name  string
		token func()
		want  string // what the node is told
	}{
		{"audience of the API server", func() { c.putToken(own, apiserver.Issuer) }, "refuses it"},
		{"another service account", func() { c.putToken(c.pod("other", nodeName, "other"), controllerName) }, "it is of "},
		{
			"pod of another node",
			func() { c.putToken(c.pod("driver-3", "node-2", nodeAccount), controllerName) },
			"the token is of node ",
		},
		{"pod that is gone", func() {
			c.putToken(gone, controllerName)
			fixture.Must(t, c.client.CoreV1().Pods(gone.Namespace).Delete(t.Context(), gone.Name,
				metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
		}, "refuses it"},
		{"no token", func() { c.put("token", []byte("x")) }, "refuses it"},
	}
	for _, w := range wrong {
		w.token()
		before := strings.Count(c.driver.Log(), w.want)
		c.driver.Start()
		fixture.Eventually(t, w.name+" is refused", func() bool {
			return strings.Count(c.driver.Log(), w.want) > before
		})
		if _, text := c.page("/statusz"); !strings.Contains(text, "0 of 0 nodes are linked") {
			t.Errorf("%s: %s", w.name, text)
		}
		if _, err := c.create("pvc-1", nil); err == nil {
			t.Errorf("%s: a volume was made", w.name)
		}
	}
	c.putToken(own, controllerName) // the driver tries again by itself
	c.waitLinked()
}
