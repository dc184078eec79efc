package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// call runs the program in this process.
func call(args ...string) (code int, stdout, stderr string) {
	defer klog.CaptureState().Restore() // the flags of the log belong to the process
	var out, errs bytes.Buffer
	code = command.Run(rootCommand(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestVersionIsPrinted(t *testing.T) {
	for _, args := range [][]string{
		{"--version"}, {"serve", "--version"}, {"place", "--version"},
	} {
		if code, stdout, stderr := call(args...); code != command.ExitOK ||
			stdout != version.Version+"\n" {
			t.Errorf("%q: exit %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// What the manifests say is parsed, and nothing of it is wrong.
func TestChartGivesFlagsThatTheProgramHas(t *testing.T) {
	serve, place := &serveOptions{}, &placeOptions{}
	for _, c := range []struct {
		file, command string
		register      func(*pflag.FlagSet)
		validate      func() error
	}{
		{"csi-hostpath.yaml", "serve", serve.register, serve.validate},
		{"csi-hostpath-node.yaml", "place", place.register, place.validate},
	} {
		args := argumentsIn(t, "../../deploy/kubernetes/"+c.file)
		set := pflag.NewFlagSet(c.command, pflag.ContinueOnError)
		c.register(set)
		command.NewLoggingFlags().Register(set)
		if len(args) == 0 || args[0] != c.command {
			t.Fatalf("%s: arguments %q", c.file, args)
		}
		if err := errors.Join(set.Parse(args[1:]), c.validate()); err != nil {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

// argumentsIn are those of the controller's container.
func argumentsIn(t *testing.T, file string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, args, found := strings.Cut(string(text), "command: [/usr/local/bin/csi-hostpath-controller]\n")
	if !found {
		t.Fatal("the manifests run no controller")
	}
	_, args, _ = strings.Cut(args, "args:\n")
	args, _, _ = strings.Cut(args, "ports:\n")
	for line := range strings.Lines(args) {
		list = append(list, strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "- "), `"`))
	}
	return list
}

func TestEveryFaultOfTheFlagsIsNamed(t *testing.T) {
	const good = "--namespace=csi --node-service-account=csi/node --ca-secret=ca --ca-configmap=ca"
	for _, c := range []struct {
		args string
		want []string // the lines of the error, in any order
	}{
		{"", []string{"give a command: serve, place, or --help"}},
		{"serve now", []string{`serve takes no arguments, only flags: ["now"]`}},
		{"serve", []string{
			"--namespace: give the namespace of the controller's objects",
			`--node-service-account: "" must be NAMESPACE/NAME`,
			"give either --ca-secret and --ca-configmap, or --tls-cert and --tls-key",
		}},
		{"serve --endpoint=tcp://:1 --link-address=9820 --metrics-address=:x " + good, []string{
			`--endpoint: "tcp://:1" must be unix:///absolute/path`,
			`--link-address: "9820" must be host:port or :port: address 9820: missing port in address`,
			`--metrics-address: ":x" must be host:port or :port: strconv.ParseUint: parsing "x": invalid syntax`,
		}},
		{"serve --node-service-account=a/b/c --placement=any " +
			good[len("--namespace=csi --node-service-account=csi/node "):] + " --namespace=csi", []string{
			`--node-service-account: "a/b/c" must be NAMESPACE/NAME`,
			`--placement: invalid argument: placement "any": want spread or pack`,
		}},
		{"serve --tls-cert=a " + good, []string{
			"give either --ca-secret and --ca-configmap, or --tls-cert and --tls-key",
		}},
		{"serve --ca-configmap= " + good[:strings.LastIndex(good, " ")], []string{
			"--ca-secret and --ca-configmap: give both",
		}},
		{
			"serve --kube-api-qps=0 --kube-api-burst=0 --driver-name= --server-name= " +
				"--token-audience= --shutdown-grace=-1s --link-renew-after=0 " + good,
			[]string{
				"--kube-api-qps: 0 must be more than 0", "--kube-api-burst: 0 must be 1 or more",
				"--driver-name: give one", "--server-name: give one", "--token-audience: give one",
				"--shutdown-grace: -1s must not be negative", "--link-renew-after: 0s must be 1s or more",
			},
		},
		{"serve --node-gone-after=-1s " + good, []string{"--node-gone-after: -1s must not be negative"}},
		{"place --driver-name= --metrics-address=1", []string{
			"--namespace: give the namespace of the controller's objects", "--driver-name: give one",
			`--metrics-address: "1" must be host:port or :port: address 1: missing port in address`,
		}},
		{"serve --kube-api-qps=many", []string{`--kube-api-qps: "many" must be a number`}},
		{"serve --kube-api-burst=many", []string{`--kube-api-burst: "many" must be a whole number`}},
		{"serve --kubeconfig=/absent " + good, nil},
	} {
		code, _, stderr := call(strings.Fields(c.args)...)
		if c.want == nil {
			if code != command.ExitFailure || !strings.Contains(stderr, "find the API server") {
				t.Errorf("%s: exit %d: %s", c.args, code, stderr)
			}
			continue
		}
		got := strings.Count(stderr, "\n")
		for _, line := range c.want {
			if !strings.Contains(stderr, "csi-hostpath-controller: "+line+"\n") {
				t.Errorf("%s:\n%swant %s", c.args, stderr, line)
			}
		}
		if code != command.ExitUsage || got != len(c.want) {
			t.Errorf("%s: exit %d, %d lines:\n%s", c.args, code, got, stderr)
		}
	}
}
