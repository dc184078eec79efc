//go:build dashboards

package dashboards

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	root      = "../.."
	workspace = "csi-hostpath-dashboards"
	// patience bounds how long it takes until every query has an answer: kubelet measures volumes
	// once a minute.
	patience = 6 * time.Minute
	interval = 5 * time.Second
)

var (
	tools = flag.String("tools", root+"/bin/tools", "directory of helm, prometheus and promtool")
	image = flag.String("image", "docker.io/library/busybox:stable",
		"an image that the nodes have, with a shell")
	// class must wait for the first consumer, so that each node gets a claim.
	class     = flag.String("class", "csi-hostpath", "StorageClass of the test's claims")
	namespace = flag.String("driver-namespace", "csi-hostpath", "namespace of the driver's pods")
)

// onlyWhenBroken are metrics that healthy clusters do not have.
var onlyWhenBroken = []string{
	"csi_hostpath_pool_unhealthy_volumes", "csi_hostpath_controller_gone_node_volumes",
	"csi_hostpath_controller_orphaned_volumes", "csi_hostpath_controller_unlinked_nodes",
}

// onlyCentral are metrics of the controller, which node deployment does not have.
var onlyCentral = []string{
	"csi_hostpath_controller_certificate_expiry_timestamp_seconds",
	"csi_hostpath_controller_ca_expiry_timestamp_seconds",
}

// onlyWithGit are metrics of drivers with gitSources. The dashboards show 0 without.
var onlyWithGit = []string{"csi_hostpath_git_stale_contents"}

// TestRules compares alerts of the chart with series of metrics.
func TestRules(t *testing.T) {
	chartRules := rulesFile(t)
	tests, err := os.ReadFile("rules_test.yaml")
	must(t, err)
	file := filepath.Join(t.TempDir(), "tests.yaml")
	must(t, os.WriteFile(file, bytes.ReplaceAll(tests, []byte("RULES"), []byte(chartRules)), 0o600))
	for _, args := range [][]string{{"check", "rules", chartRules}, {"test", "rules", file}} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(*tools, "promtool"),
			args...).CombinedOutput()
		if err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestEveryQueryReturnsSomething asks a Prometheus that watches the cluster of $KUBECONFIG. Each
// node gets a pod that writes into a claim.
func TestEveryQueryReturnsSomething(t *testing.T) {
	nodes := writers(t)
	p := startPrometheus(t, nodes, rulesFile(t))
	queries := map[string]string{}
	for _, d := range Load(t, root) {
		for _, one := range d.Panels {
			for _, target := range one.Targets {
				for _, node := range nodes {
					queries[choose(target.Expr, node)] = d.File + ": " + one.Title
				}
			}
		}
		for _, v := range d.Templating.List {
			for _, node := range nodes {
				if query := listQuery(choose(v.Query, node)); query != "" {
					queries[query] = d.File + ": variable " + v.Name
				}
			}
		}
	}
	absent := absentMetrics(t)
	for _, r := range p.rules() {
		for _, metric := range Metrics(r.Query) {
			if !slices.Contains(absent, metric) {
				queries[metric] = "rule " + r.Name
			}
		}
	}
	total := len(queries)
	for end := time.Now().Add(patience); len(queries) > 0 && time.Now().Before(end); {
		time.Sleep(interval)
		for query := range queries {
			if p.answers(query) {
				delete(queries, query)
			}
		}
	}
	t.Logf("%d queries, on %d nodes", total, len(nodes))
	for query, where := range queries {
		t.Errorf("%s: nothing for %s", where, query)
	}
	for _, r := range p.rules() {
		if r.Health != "ok" {
			t.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
		}
	}
}

// absentMetrics are those that the rules name, and that the cluster need not have.
func absentMetrics(t *testing.T) []string {
	t.Helper()
	absent := slices.Clone(onlyWhenBroken)
	if !strings.Contains(kubectl(t, "", "-n", *namespace, "get", "deployments", "-o", "name"),
		"-controller") {
		absent = append(absent, onlyCentral...)
	}
	if !slices.Contains(strings.Fields(kubectl(t, "", "-n", *namespace, "get", "daemonsets", "-o",
		"jsonpath={.items[*].spec.template.spec.containers[*].name}")), "git-fetcher") {
		absent = append(absent, onlyWithGit...)
	}
	return absent
}

// choose does what Grafana does for somebody who looks at a node, and at the claim of the test.
func choose(expr, node string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$node", node, "$namespace", workspace,
		"$claim", "claim-"+node).Replace(expr)
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// listQuery asks for what Grafana offers for a variable; empty: it asks nobody.
func listQuery(query string) string {
	match := labelValues.FindStringSubmatch(query)
	if match == nil {
		return ""
	}
	metric, hasMatchers := strings.CutSuffix(match[1], "}")
	if hasMatchers {
		metric += ", "
	} else {
		metric += "{"
	}
	return fmt.Sprintf(`count by (%[1]s) (%[2]s%[1]s!=""})`, match[2], metric)
}

// rulesFile is the chart's PrometheusRule as Prometheus reads it.
func rulesFile(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(*tools, "helm"), "template", "test",
		filepath.Join(root, chart), "--set", "prometheusRule.enabled=true", "--show-only",
		"templates/prometheusrule.yaml").Output()
	must(t, err)
	var rule struct {
		Spec map[string]any `yaml:"spec"`
	}
	must(t, yaml.Unmarshal(out, &rule))
	text, err := yaml.Marshal(rule.Spec)
	must(t, err)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	must(t, os.WriteFile(file, text, 0o600))
	return file
}

const writer = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim-NODE, namespace: NAMESPACE}
spec:
  storageClassName: CLASS
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer-NODE, namespace: NAMESPACE}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers:
    - name: writer
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/sh, -c]
      args:
        - >-
          while sleep 2; do dd if=/dev/urandom of=/data/file bs=1M count=8 conv=fsync;
          cat /data/file >/dev/null; done
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: claim-NODE}}]
---
`

// writers makes a claim and a pod that writes into it on each node, until the test ends. It returns
// the nodes.
func writers(t *testing.T) []string {
	t.Helper()
	nodes := strings.Fields(kubectl(t, "", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	kubectl(t, "", "create", "namespace", workspace)
	t.Cleanup(func() {
		out, err := exec.Command("kubectl", "delete", "namespace", workspace).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	var manifests strings.Builder
	for _, node := range nodes {
		manifests.WriteString(strings.NewReplacer("NODE", node, "NAMESPACE", workspace, "CLASS", *class,
			"IMAGE", *image).Replace(writer))
	}
	kubectl(t, manifests.String(), "apply", "-f", "-")
	kubectl(t, "", "wait", "--namespace", workspace, "--for=condition=Ready", "pod", "--all",
		"--timeout=5m")
	return nodes
}

func kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kubectl", args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// watcher is a Prometheus that watches the cluster.
type watcher struct {
	t       *testing.T
	address string
}

// startPrometheus starts one that reaches pods and kubelets by the API server's proxy. Labels are
// those that the chart's PodMonitor and kube-prometheus give.
func startPrometheus(t *testing.T, nodes []string, rules string) watcher {
	t.Helper()
	dir := t.TempDir()
	server, tls := access(t, dir)
	target := func(path string, labels map[string]string) map[string]any {
		labels["__metrics_path__"] = "/api/v1" + path
		return map[string]any{"targets": []string{server}, "labels": labels}
	}
	var kubelets []any
	for _, node := range nodes {
		for _, page := range []string{"/metrics", "/metrics/cadvisor"} {
			kubelets = append(kubelets, target("/nodes/"+node+"/proxy"+page,
				map[string]string{"node": node, "instance": node, "metrics_path": page}))
		}
	}
	job := func(name string, targets []any) map[string]any {
		return map[string]any{
			"job_name": name, "scheme": "https", "tls_config": tls, "honor_labels": name == "kubelet",
			"static_configs": targets,
		}
	}
	drivers, controllers := pods(t, target)
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"global": map[string]any{
			"scrape_interval": interval.String(), "evaluation_interval": interval.String(),
		},
		"rule_files": []string{rules},
		"scrape_configs": []any{
			job("kubelet", kubelets), job("csi-hostpath", drivers),
			job("csi-hostpath-controller", controllers),
		},
	})
	must(t, err)
	file := filepath.Join(dir, "prometheus.yaml")
	must(t, os.WriteFile(file, config, 0o600))
	p := watcher{t, freeAddress(t)}
	program, err := filepath.Abs(filepath.Join(*tools, "prometheus"))
	must(t, err)
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+file,
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	var log bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus says:\n%s", &log)
		}
	})
	p.waitReady()
	return p
}

// pods are the targets of the driver's pods and of the others: those of the controller, or the
// placer.
func pods(
	t *testing.T, target func(string, map[string]string) map[string]any,
) (drivers, controllers []any) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Spec struct {
				NodeName   string `json:"nodeName"`
				Containers []struct {
					Name  string `json:"name"`
					Ports []struct {
						Name          string `json:"name"`
						ContainerPort int    `json:"containerPort"`
					} `json:"ports"`
				} `json:"containers"`
			} `json:"spec"`
		} `json:"items"`
	}
	out := kubectl(t, "", "get", "pods", "--namespace", *namespace, "-o", "json")
	must(t, json.Unmarshal([]byte(out), &list))
	for _, pod := range list.Items {
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name != "metrics" {
					continue
				}
				at := fmt.Sprintf("%s:%d", pod.Metadata.Name, port.ContainerPort)
				labels := map[string]string{
					"instance": at, "namespace": *namespace, "pod": pod.Metadata.Name,
				}
				path := "/namespaces/" + *namespace + "/pods/" + at + "/proxy/metrics"
				if container.Name == "driver" {
					labels["node"] = pod.Spec.NodeName
					drivers = append(drivers, target(path, labels))
				} else {
					controllers = append(controllers, target(path, labels))
				}
			}
		}
	}
	if len(drivers) == 0 || len(controllers) == 0 {
		t.Fatalf("%d drivers and %d controllers in namespace %s", len(drivers), len(controllers),
			*namespace)
	}
	return drivers, controllers
}

// access writes the certificates of the kubeconfig into dir, and returns the API server's address.
func access(t *testing.T, dir string) (server string, tls map[string]string) {
	t.Helper()
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     string `json:"certificate-authority-data"` //nolint:tagliatelle // kubectl's name
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Certificate string `json:"client-certificate-data"` //nolint:tagliatelle // kubectl's name
				Key         string `json:"client-key-data"`         //nolint:tagliatelle // kubectl's name
			} `json:"user"`
		} `json:"users"`
	}
	out := kubectl(t, "", "config", "view", "--raw", "--minify", "--flatten", "-o", "json")
	must(t, json.Unmarshal([]byte(out), &config))
	address, err := url.Parse(config.Clusters[0].Cluster.Server)
	must(t, err)
	tls = map[string]string{}
	for name, data := range map[string]string{
		"ca_file":   config.Clusters[0].Cluster.CA,
		"cert_file": config.Users[0].User.Certificate,
		"key_file":  config.Users[0].User.Key,
	} {
		text, err := base64.StdEncoding.DecodeString(data)
		must(t, err)
		tls[name] = filepath.Join(dir, name)
		must(t, os.WriteFile(tls[name], text, 0o600))
	}
	return address.Host, tls
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (p watcher) waitReady() {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := p.get("/api/v1/status/buildinfo", nil)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			p.t.Fatal(err)
		}
	}
}

// get asks Prometheus, and reads what it answers into data.
func (p watcher) get(path string, data any) error {
	address := "http://" + p.address + path
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return nil
}

type rule struct {
	Name      string `json:"name"`
	Query     string `json:"query"`
	Health    string `json:"health"`
	LastError string `json:"lastError"`
}

func (p watcher) rules() (all []rule) {
	p.t.Helper()
	var data struct {
		Groups []struct {
			Rules []rule `json:"rules"`
		} `json:"groups"`
	}
	must(p.t, p.get("/api/v1/rules", &data))
	for _, group := range data.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		p.t.Fatal("Prometheus has no rules")
	}
	return all
}

// answers says whether a query has an answer that is a number. A query that Prometheus cannot read
// ends the test.
func (p watcher) answers(query string) bool {
	p.t.Helper()
	var data struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	}
	if err := p.get("/api/v1/query?query="+url.QueryEscape(query), &data); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		if number, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(number) {
			return true
		}
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
