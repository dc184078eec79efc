package plugin

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/doctor"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/reach"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/redact"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

const (
	// maxBundleNodes is of how many nodes a bundle has logs and pages, unless they are named.
	maxBundleNodes = 10
	defaultTail    = 5000
)

func (p *plugin) supportBundleCommand() *cobra.Command {
	var file string
	var nodes []string
	o := reach.LogOptions{Tail: defaultTail}
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect what a report of a fault needs in an archive, without secrets",
		Long: "Collect what a report of a fault needs in an archive: the driver's objects, claims and " +
			"volumes, events, logs, metrics, pages, and what doctor finds. It has no Secrets, tokens, " +
			"values of environment variables or content of volumes. It has names: of nodes, namespaces, " +
			"claims and pods. Look at it before you give it away.",
		Example: "  kubectl hostpath support-bundle --node node-1\n" +
			"  tar -tzf csi-hostpath-support.tar.gz",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "csi-hostpath-support.tar.gz",
		"archive to write; - is stdout")
	flags.StringSliceVar(&nodes, "node", nil, "nodes to have logs of; default: up to 10, those whose "+
		"driver is not ready first")
	flags.DurationVar(&o.Since, "since", 0, "only log lines of this last time: 10m; 0: all")
	flags.Int64Var(&o.Tail, "tail", o.Tail, "so many last lines of each log at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.begin(cmd.Context())
		if err != nil {
			return err
		}
		return s.supportBundle(cmd.Context(), file, nodes, o)
	}
	return cmd
}

// bundle is the content of an archive.
type bundle struct {
	mu     sync.Mutex
	driver string
	files  map[string][]byte
}

func (s *session) supportBundle(
	ctx context.Context, file string, nodes []string, o reach.LogOptions,
) error {
	if !s.installation.IsVisible() {
		return errNotVisible
	}
	all, err := s.mayListClaims(ctx, "")
	if err != nil {
		return err
	}
	facts, err := s.facts(ctx, all)
	if err != nil {
		return err
	}
	b := &bundle{driver: s.installation.Driver, files: map[string][]byte{}}
	b.addFacts(facts)
	b.addJSON("doctor.json", doctor.Examine(facts))
	b.addJSON("version.json", map[string]string{
		"plugin": version.Version,
		"server": s.serverVersion(),
	})
	s.addConfig(ctx, b)
	pods := append(chooseDriverPods(facts.DriverPods, nodes), facts.ControllerPods...)
	s.addPages(ctx, b, pods)
	s.addLogs(ctx, b, pods, o)
	b.add("not-shown.txt", []byte(strings.Join(s.NotShown(), "\n")+"\n"))
	return s.writeBundle(b, file)
}

func (s *session) serverVersion() string {
	v, err := s.Client.Discovery().ServerVersion()
	if err != nil {
		return err.Error()
	}
	return v.GitVersion
}

// chooseDriverPods are the drivers of the named nodes, or some: those that are not ready first.
func chooseDriverPods(pods []*core.Pod, nodes []string) []*core.Pod {
	chosen := slices.Clone(pods)
	if len(nodes) > 0 {
		return slices.DeleteFunc(chosen, func(p *core.Pod) bool {
			return !slices.Contains(nodes, p.Spec.NodeName)
		})
	}
	slices.SortStableFunc(chosen, func(a, b *core.Pod) int {
		return boolOrder(isReadyPod(a)) - boolOrder(isReadyPod(b))
	})
	return chosen[:min(len(chosen), maxBundleNodes)]
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (b *bundle) add(name string, content []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[name] = content
}

func (b *bundle) addJSON(name string, value any) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		text = []byte(err.Error())
	}
	b.add(name, []byte(redact.Text(string(text))+"\n"))
}

// addObjects adds objects that were redacted, as one file of YAML.
func addObjects[T any](b *bundle, name string, list []*T, each func(*T)) {
	var text strings.Builder
	for _, o := range list {
		each(o)
		y, err := yaml.Marshal(o)
		if err != nil {
			y = []byte(err.Error() + "\n")
		}
		text.WriteString("---\n" + redact.Text(string(y)))
	}
	b.add("objects/"+name+".yaml", []byte(text.String()))
}

// addFacts adds the objects that doctor has looked at: of claims, PersistentVolumes, their events
// and classes those of the driver. The parameters of another driver's class may have its secrets.
func (b *bundle) addFacts(f *doctor.Facts) {
	meta := func(m *metav1.ObjectMeta) { redact.Meta(m, b.driver) }
	index := claims.NewIndex(b.driver, f.Volumes, f.Classes, f.Pods)
	ours, volumes := chosen(f.Claims, index.Has), chosen(f.Volumes, index.IsOurs)
	addObjects(b, "persistentvolumeclaims", ours,
		func(c *core.PersistentVolumeClaim) { meta(&c.ObjectMeta) })
	addObjects(b, "persistentvolumes", volumes,
		func(v *core.PersistentVolume) { meta(&v.ObjectMeta) })
	addObjects(b, "storageclasses",
		chosen(f.Classes, func(c class) bool { return c.Provisioner == b.driver }),
		func(c class) { meta(&c.ObjectMeta) })
	b.addEvents("events-of-claims", f.ClaimEvents, keysOf(ours))
	b.addEvents("events-of-volumes", f.VolumeEvents, keysOf(volumes))
	addObjects(b, "nodes", f.Nodes, func(n *core.Node) { meta(&n.ObjectMeta); n.Status.Images = nil })
	addObjects(b, "csidrivers", f.Drivers, func(d driverObject) { meta(&d.ObjectMeta) })
	addObjects(b, "csinodes", f.CSINodes, func(n csiNode) { meta(&n.ObjectMeta) })
	addObjects(b, "csistoragecapacities", f.Capacities, func(c capacity) { meta(&c.ObjectMeta) })
	b.addInstallation(f)
	if f.Data != nil {
		b.addJSON("status.json", f.Data)
	}
}

// addInstallation adds what runs the driver.
func (b *bundle) addInstallation(f *doctor.Facts) {
	meta := func(m *metav1.ObjectMeta) { redact.Meta(m, b.driver) }
	for name, pods := range map[string][]*core.Pod{
		"driver-pods": f.DriverPods, "controller-pods": f.ControllerPods,
	} {
		addObjects(b, name, pods, func(p *core.Pod) { meta(&p.ObjectMeta); redact.PodSpec(&p.Spec) })
	}
	template := func(t *core.PodTemplateSpec) { meta(&t.ObjectMeta); redact.PodSpec(&t.Spec) }
	set := f.Installation.DaemonSet
	meta(&set.ObjectMeta)
	template(&set.Spec.Template)
	b.addJSON("objects/daemonset.json", set)
	for _, d := range f.Installation.Deployments {
		meta(&d.ObjectMeta)
		template(&d.Spec.Template)
		b.addJSON("objects/deployment-"+d.Name+".json", d)
	}
}

// addEvents adds the events about some objects, and those that the driver's sidecars have written:
// the object of such an event may be gone.
func (b *bundle) addEvents(name string, events []*core.Event, about map[claims.Key]bool) {
	ours := chosen(events, func(e *core.Event) bool {
		return about[claims.Key{Namespace: e.InvolvedObject.Namespace, Name: e.InvolvedObject.Name}] ||
			strings.HasPrefix(e.Source.Component, b.driver+"_")
	})
	addObjects(b, name, ours, func(e *core.Event) { redact.Meta(&e.ObjectMeta, b.driver) })
}

// chosen are the objects of a list that f chooses.
func chosen[T any](list []T, f func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), func(o T) bool { return !f(o) })
}

func keysOf[T metav1.Object](list []T) map[claims.Key]bool {
	keys := make(map[claims.Key]bool, len(list))
	for _, o := range list {
		keys[claims.Key{Namespace: o.GetNamespace(), Name: o.GetName()}] = true
	}
	return keys
}

// addConfig adds the driver's configuration.
func (s *session) addConfig(ctx context.Context, b *bundle) {
	for _, v := range s.installation.DaemonSet.Spec.Template.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		config, err := s.Client.CoreV1().ConfigMaps(s.installation.Namespace).Get(ctx, v.ConfigMap.Name,
			metav1.GetOptions{})
		if err != nil {
			s.Deny("configmap " + v.ConfigMap.Name + ": " + err.Error())
			continue
		}
		for key, text := range config.Data {
			b.add(path.Join("config", path.Base(key)), []byte(redact.Text(text)))
		}
	}
}

// addPages adds the pages of pods, through the API server's proxy, and the parts of the status API
// that facts do not have.
func (s *session) addPages(ctx context.Context, b *bundle, pods []*core.Pod) {
	for _, pod := range pods {
		for _, container := range []string{objects.DriverContainer, objects.ControllerContainer} {
			port := objects.MetricsPort(pod.Spec, container)
			for _, page := range []string{"statusz", "volumesz", "metrics"} {
				if port == "" || !isRunning(pod, container) ||
					page == "volumesz" && container == objects.DriverContainer {
					continue
				}
				text, err := s.Client.CoreV1().Pods(pod.Namespace).ProxyGet("", pod.Name, port, page, nil).
					DoRaw(ctx)
				if err != nil {
					s.Deny(fmt.Sprintf("page %s of pod %s: %v", page, pod.Name, err))
					continue
				}
				b.add(path.Join("pods", pod.Name, page+".txt"), []byte(redact.Text(string(text))))
			}
		}
	}
	snapshots, _, err := list[status.Snapshot](ctx, s, "snapshots", nil)
	if err != nil {
		return // status.json or not-shown.txt says why
	}
	b.addJSON("snapshots.json", snapshots)
	if entries, _, err := s.trash(ctx, ""); err == nil {
		b.addJSON("trash.json", entries)
	}
	if copies, _, err := list[status.Copy](ctx, s, "copies", nil); err == nil {
		b.addJSON("copies.json", copies)
	}
}

// addLogs adds the logs of all containers of pods, and of those before a restart.
func (s *session) addLogs(ctx context.Context, b *bundle, pods []*core.Pod, o reach.LogOptions) {
	for _, pod := range pods {
		for _, c := range pod.Status.ContainerStatuses {
			s.addLog(ctx, b, pod, c.Name, o)
			if c.RestartCount > 0 {
				previous := o
				previous.Previous = true
				s.addLog(ctx, b, pod, c.Name, previous)
			}
		}
	}
}

func (s *session) addLog(
	ctx context.Context, b *bundle, pod *core.Pod, container string, o reach.LogOptions,
) {
	var text strings.Builder
	err := s.pods.Log(ctx, pod, container, o, func(l reach.Line) {
		text.WriteString(l.Time.UTC().Format("2006-01-02T15:04:05.000000Z ") + l.Text + "\n")
	})
	if err != nil {
		s.Deny(err.Error())
	}
	name := container
	if o.Previous {
		name += "-previous"
	}
	b.add(path.Join("pods", pod.Name, name+".log"), []byte(redact.Text(text.String())))
}

// writeBundle writes the archive. Only its owner may read it.
func (s *session) writeBundle(b *bundle, file string) (err error) {
	if file == "-" {
		return b.write(s.Out, s)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := b.write(f, s); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	s.sayOnce(map[string]bool{}, s.NotShown())
	fmt.Fprintf(s.Out,
		"%s has %d files. It has names of nodes, namespaces, claims and pods: look at it "+
			"before you give it away.\n", file, len(b.files))
	return nil
}

func (b *bundle) write(out io.Writer, s *session) error {
	zipped := gzip.NewWriter(out)
	archive := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		content := b.files[name]
		header := &tar.Header{
			Name: "csi-hostpath-support/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: s.now(),
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}
