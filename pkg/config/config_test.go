package config

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const knownPoolKeys = "known are name, path, default, optional, allowMultiNode, overcommit, reserve, quota, " +
	"requireMountpoint, trashRetention, maxCopies, copyBytesPerSecond, maxSnapshotsPerVolume"

const header = "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" // lines 1 and 2

// load runs Flags.Load for a file driver.yaml with the given content, in a new directory.
func load(t testing.TB, content string, poolPaths ...string) (Config, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("driver.yaml", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f := NewFlags()
	f.NodeName, f.ConfigFile, f.PoolPaths = "node-1", "driver.yaml", poolPaths
	return f.Load()
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestConfigFileFillsEveryField(t *testing.T) {
	got, err := load(t, header+`
maxVolumesPerNode: 110
pools:
- name: fast
  path: /data/fast
  default: true
  optional: true
  allowMultiNode: true
  overcommit: 2.5
  reserve: 10Gi
  quota: required
  requireMountpoint: true
  trashRetention: 24h
  maxCopies: 3
  maxSnapshotsPerVolume: 9
  copyBytesPerSecond: 100Mi
- {name: slow, path: /data/slow}
`, "extra=/data/extra=odd,name")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.NodeName, want.MaxVolumesPerNode = "node-1", 110
	want.Pools = []Pool{
		{
			Name:              "fast",
			Path:              "/data/fast",
			Default:           true,
			Optional:          true,
			AllowMultiNode:    true,
			Overcommit:        2.5,
			Reserve:           10 << 30,
			Quota:             QuotaRequired,
			RequireMountpoint: true,
			TrashRetention:    24 * time.Hour,
			MaxCopies:         3,

			MaxSnapshotsPerVolume: 9,
			CopyBytesPerSecond:    100 << 20,
		},
		NewPool("slow", "/data/slow"),
		NewPool("extra", "/data/extra=odd,name"),
	}
	got.sources = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.DefaultPool() != "fast" {
		t.Errorf("default pool %q", got.DefaultPool())
	}
}

func TestOnlyPoolIsTheDefault(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		flag []string
	}{
		"from the file":      {file: header + "pools: [{name: a, path: /a}]\n"},
		"from the flag":      {file: header, flag: []string{"a=/a"}},
		"though it says not": {file: header + "pools: [{name: a, path: /a, default: false}]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load(t, c.file, c.flag...)
			if err != nil {
				t.Fatal(err)
			}
			if got.DefaultPool() != "a" || !got.Pools[0].Default {
				t.Errorf("default pool %q of %+v", got.DefaultPool(), got.Pools)
			}
		})
	}
}

func TestConfigFileFaultsAreNamedAllAtOnceWithTheirLines(t *testing.T) {
	_, err := load(t, `apiVersion: hostpath.csi.local/v2
kind: 7
hostpaths: []
maxVolumesPerNode: -1
pools:
- name: Fast
  path: data/../fast
  default: yes
  overcommit: .inf
  reserve: 10GB
  quota: maybe
  trashRetention: 7d
- path: /data
  overcomit: 2
  default: true
  default: false
- name: slow
  path: /data/slow
- just text
- name: slow
  path: 12
  optional:
  overcommit: 1e4
`, "slow=/var/lib", "nopath", "=/data/noname", "nopath=")
	want := []string{
		`--pool "nopath": must be name=path`,
		`--pool "=/data/noname": must be name=path`,
		`--pool "nopath=": must be name=path`,
		`--pool "slow=/var/lib": "/var/lib" overlaps kubelet's directory "/var/lib/kubelet": give the pool a directory apart from it`,
		`--pool "slow=/var/lib": "slow" is the name of another pool (driver.yaml:17: pools[2].name): names must differ`,
		`--pool "slow=/var/lib": "slow" is the name of another pool (driver.yaml:20: pools[4].name): names must differ`,
		`driver.yaml:1: apiVersion: "hostpath.csi.local/v2" must be hostpath.csi.local/v1`,
		`driver.yaml:2: kind: must be a string (a number or word such as true needs quotes), not "7"`,
		`driver.yaml:3: unknown key "hostpaths": ` + knownKeys,
		`driver.yaml:4: maxVolumesPerNode: -1 must be 0 (no limit) to 2147483647`,
		`driver.yaml:6: pools[0].name: "Fast" must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit`,
		`driver.yaml:7: pools[0].path: "data/../fast" must be an absolute path`,
		`driver.yaml:8: pools[0].default: must be true or false, not "yes"`,
		`driver.yaml:9: pools[0].overcommit: must be a number, such as 1.5, not ".inf"`,
		`driver.yaml:10: pools[0].reserve: must be a size in bytes of 0 to less than 8Ei, such as 10Gi, 500M or 1048576, not "10GB"`,
		`driver.yaml:11: pools[0].quota: "maybe" must be required, preferred or off`,
		`driver.yaml:12: pools[0].trashRetention: must be a duration with a unit, such as 90s, 30m or 24h, not "7d"`,
		`driver.yaml:13: pools[1].name: is missing: every pool needs a name`,
		`driver.yaml:14: pools[1]: unknown key "overcomit": ` + knownPoolKeys,
		`driver.yaml:16: pools[1]: default is given twice, first on line 15`,
		`driver.yaml:18: pools[2].path: "/data/slow" overlaps "/data" of another pool (driver.yaml:13: pools[1].path): pools must lie apart`,
		`driver.yaml:19: pools[3]: must be a mapping with name and path, not "just text"`,
		`driver.yaml:20: pools[4].name: "slow" is the name of another pool (driver.yaml:17: pools[2].name): names must differ`,
		`driver.yaml:21: pools[4].path: must be a string (a number or word such as true needs quotes), not "12"`,
		`driver.yaml:22: pools[4].optional: must be true or false, not nothing`,
		`driver.yaml:23: pools[4].overcommit: 10000 must be a factor of 0.1 to 1000`,
	}
	got := lines(err)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("not wanted: %s", line)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Errorf("out of order:\n%s", strings.Join(got, "\n"))
	}
}

const knownKeys = "known are apiVersion, kind, maxVolumesPerNode, pools, hostPaths, gitSources, " +
	"ioLimits"

func TestConfigFileThatIsNoDocumentIsRefused(t *testing.T) {
	const pool = "pools: [{name: a, path: /a}]\n"
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", `driver.yaml:1: the file is empty: it must have apiVersion: hostpath.csi.local/v1, kind: DriverConfiguration`},
		{"only comments", "# nothing\n\n", `driver.yaml:1: the file is empty: it must have apiVersion: hostpath.csi.local/v1, kind: DriverConfiguration`},
		{"only a marker", "---\n", `driver.yaml:2: must be a mapping with apiVersion, kind and pools, not nothing`},
		{"a list", "- a\n- b\n", `driver.yaml:1: must be a mapping with apiVersion, kind and pools, not a list`},
		{"a scalar", "hello\n", `driver.yaml:1: must be a mapping with apiVersion, kind and pools, not "hello"`},
		{"two documents", header + pool + "---\n" + header, `driver.yaml:4: a second document begins: the file must have one`},
		{"broken second", header + pool + "---\na: [\n", `driver.yaml:5: not YAML: did not find expected node content`},
		{"bad syntax", header + "pools: [\n", `driver.yaml:3: not YAML: did not find expected node content`},
		{"bad indentation", header + "pools: a: b\n", `driver.yaml:3: not YAML: mapping values are not allowed in this context`},
		{"a tab", header + "pools:\n\t- name: a\n", `driver.yaml:4: not YAML: found character that cannot start any token (a tab? YAML indents with spaces)`},
		{"a quoted boolean", header + "pools: [{name: a, path: /a, optional: \"true\"}]\n", `driver.yaml:3: pools[0].optional: must be true or false, not "true", a string: write it without quotes`},
		{"a quoted integer", "maxVolumesPerNode: '5'\n" + header + pool, `driver.yaml:1: maxVolumesPerNode: must be a whole number, in decimal digits, not "5", a string: write it without quotes`},
		{"a quoted number", header + "pools: [{name: a, path: /a, overcommit: \"1.5\"}]\n", `driver.yaml:3: pools[0].overcommit: must be a number, such as 1.5, not "1.5", a string: write it without quotes`},
		{"words for a number", header + "pools: [{name: a, path: /a, overcommit: \"much\"}]\n", `driver.yaml:3: pools[0].overcommit: must be a number, such as 1.5, not "much"`},
		{"not UTF-8", header + "pools: \xff\n", `driver.yaml:3: the file must be UTF-8: byte 0xff is not`},
		{"UTF-16", "\xff\xfea\x00", `driver.yaml:1: the file must be UTF-8: byte 0xff is not`},
		{"control characters", header + "\x00\n", `driver.yaml:3: control character 0x00 is not allowed`},
		{"huge", strings.Repeat("#", maxConfigBytes+1), `driver.yaml:1: the file has more than 1048576 bytes`},
		{"no header", pool, "driver.yaml:1: apiVersion is missing: it must be hostpath.csi.local/v1\ndriver.yaml:1: kind is missing: it must be DriverConfiguration"},
		{"no pools", header, `driver.yaml:1: pools: no pool is configured: list pools in the --config file, or give --pool name=path`},
		{"pools of nothing", header + "pools:\n", `driver.yaml:3: pools: must be a list of pools, not nothing`},
		{"an alias", header + "pools: [&p {name: a, path: /a, default: true}, *p]\n", `driver.yaml:3: pools[1]: must be a mapping with name and path, not an alias`},
		{"text that looks like an alias", header + "pools:\n- name: a\n  path: *x\n  optional: true\n", `driver.yaml:5: not YAML: unknown anchor 'x' referenced (text that begins with * needs quotes; aliases are not allowed)`},
		{"the same in a list", header + "pools:\n- name: a\n  path: /a\nhostPaths:\n- {path: /srv, namespaces: [*, b]}\n", `driver.yaml:7: not YAML: did not find expected alphabetic or numeric character`},
		{"an alias before its anchor", header + "# *x is described below\npools: [*x]\nhostPaths: [&x {path: /srv}]\n", `driver.yaml:4: not YAML: unknown anchor 'x' referenced (text that begins with * needs quotes; aliases are not allowed)`},
		{"an alias of another document", header + "pools: [&x {name: a, path: /a}]\n---\na: 1\nb: *x\n---\n", `driver.yaml:4: a second document begins: the file must have one`},
		{"an alias on the first line", "{a: *x}", `driver.yaml:1: not YAML: unknown anchor 'x' referenced (text that begins with * needs quotes; aliases are not allowed)`},
		{"a merge key", header + "pools: [&p {name: a, path: /a, default: true}, {<<: *p, name: b, path: /b}]\n", `driver.yaml:3: pools[1]: unknown key "<<": ` + knownPoolKeys},
		{
			"a bomb",
			header + pool + "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n",
			"driver.yaml:4: unknown key \"a\": " + knownKeys + "\n" +
				"driver.yaml:5: unknown key \"b\": " + knownKeys + "\n" +
				"driver.yaml:6: unknown key \"c\": " + knownKeys,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.file)
			if got := strings.Join(lines(err), "\n"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestConfigFileThatCannotBeReadIsNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"absent.yaml": "absent.yaml: cannot be read: no such file or directory",
		"dir":         "dir: must be a regular file",
		"/dev/zero":   "/dev/zero: must be a regular file",
	} {
		f := NewFlags()
		f.ConfigFile, f.NodeName, f.PoolPaths = name, "n", []string{"a=rel"}
		_, err := f.Load()
		if got := lines(
			err,
		); !slices.Equal(
			got, []string{`--pool "a=rel": "rel" must be an absolute path`, want},
		) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestReserveIsAQuantity(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1048576": 1 << 20, "10Gi": 10 << 30, "500M": 500e6, "1.5Gi": 3 << 29, "1e9": 1e9, `"7Ei"`: 7 << 60, "0.1": 1,
		// Refused.
		"8Ei": -1, "9223372036854775807": -1, "99E": -1, "-1": -1, "1e999999999": -1, "10GB": -1, "0x10": -1, "1_000": -1,
		"''": -1, "Gi": -1, "true": -1, "[]": -1, "99999999999999999999": -1, "1e99": -1,
	} {
		c, err := load(t, header+"pools: [{name: a, path: /a, reserve: "+text+"}]\n")
		switch {
		case want < 0 && err == nil:
			t.Errorf("%s: accepted as %d", text, c.Pools[0].Reserve)
		case want >= 0 && err != nil:
			t.Errorf("%s: %v", text, err)
		case want >= 0 && c.Pools[0].Reserve != want:
			t.Errorf("%s: got %d, want %d", text, c.Pools[0].Reserve, want)
		}
	}
}

func TestValidateNamesEachFault(t *testing.T) {
	valid := func() Config {
		c := Default()
		c.NodeName, c.Pools = "node-1", []Pool{NewPool("a", "/data/a")}
		return c
	}
	if err := valid().Validate(); err != nil {
		t.Fatalf("a valid configuration: %v", err)
	}
	long := strings.Repeat("n", 257)
	for _, c := range []struct {
		name  string
		field string
		value any
		want  string // the only line of the error, or its beginning
	}{
		{"tcp endpoint", "Endpoint", "tcp://:80", `endpoint: "tcp://:80" must be unix:///absolute/path`},
		{"tcp endpoint for sidecars", "SidecarEndpoint", "tcp://:80", `sidecarEndpoint: "tcp://:80" must be unix:///absolute/path`},
		{"one socket for all", "SidecarEndpoint", "unix:/csi/csi.sock", `sidecarEndpoint: "unix:/csi/csi.sock" is the socket of endpoint`},
		{"sidecars' socket in a pool", "SidecarEndpoint", "unix:///data/a/csi.sock", `pools[0].path: "/data/a" contains the driver's own socket`},
		{"no node name", "NodeName", "", "nodeName: is empty"},
		{"long node name", "NodeName", long[:254], "nodeName: "},
		{"node name not UTF-8", "NodeName", "\xff", `nodeName: "\xff" is no name of a node in Kubernetes`},
		{"node name with capitals", "NodeName", "Node-1", `nodeName: "Node-1" is no name of a node in Kubernetes, which is 1 to 253 of a-z`},
		{"node name with underscore", "NodeName", "node_1", "nodeName: "},
		{"node name with a slash", "NodeName", "node/1", "nodeName: "},
		{"node name ending in a dash", "NodeName", "node-", "nodeName: "},
		{"empty driver name", "DriverName", "", `driverName: "" is no name of a CSI driver in Kubernetes, which is here 1 to 54 of a-z`},
		{"long driver name", "DriverName", long[:55], "driverName: "},
		{"driver name with capitals", "DriverName", "Hostpath.CSI", "driverName: "},
		{"driver name with underscore", "DriverName", "a_b", "driverName: "},
		{"driver name ending in a dot", "DriverName", "a.", "driverName: "},
		{"relative kubelet dir", "KubeletDir", "kubelet", "kubeletDir: "},
		{"unclean kubelet dir", "KubeletDir", "/k/", "kubeletDir: "},
		{"root as kubelet dir", "KubeletDir", "/", "kubeletDir: "},
		{"metrics without port", "MetricsAddress", "localhost", "metricsAddress: "},
		{"metrics with named port", "MetricsAddress", ":http", `metricsAddress: port "http"`},
		{"metrics with large port", "MetricsAddress", ":65536", "metricsAddress: "},
		{"status for everybody", "StatusAddress", ":9815", `statusAddress: ":9815" must have a loopback address`},
		{"status for the pod's network", "StatusAddress", "10.0.0.1:9815", "statusAddress: "},
		{"status by a name", "StatusAddress", "localhost:9815", "statusAddress: "},
		{"status without port", "StatusAddress", "127.0.0.1", "statusAddress: "},
		{"CA without a controller", "ControllerCA", "/ca.crt", "controllerCA: is of use only with controllerAddress"},
		{"token without a controller", "ControllerToken", "/token", "controllerToken: is of use only with controllerAddress"},
		{
			"server name without a controller", "ControllerServerName", "a",
			"controllerServerName: is of use only with controllerAddress",
		},
		{"negative grace", "ShutdownGrace", -time.Second, "shutdownGrace: -1s must be 0 to 10m0s"},
		{"endless grace", "ShutdownGrace", time.Hour, "shutdownGrace: 1h0m0s must be 0 to 10m0s"},
		{"too many volumes", "MaxVolumesPerNode", int64(math.MaxInt32 + 1), "maxVolumesPerNode: "},
		{"no pools", "Pools", []Pool(nil), "pools: no pool is configured"},
		{"a crowd of pools", "Pools", make([]Pool, maxPools+1), "pools: 257 pools, at most 256 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := valid()
			reflect.ValueOf(&config).Elem().FieldByName(c.field).Set(reflect.ValueOf(c.value))
			got := lines(config.Validate())
			if len(got) != 1 {
				t.Fatalf("want one fault, got %q", got)
			}
			if !strings.HasPrefix(got[0], c.want) {
				t.Errorf("got %s\nwant %s…", got[0], c.want)
			}
		})
	}
}

func TestLinkToAControllerNeedsAllItsFlags(t *testing.T) {
	valid := Default()
	valid.NodeName, valid.Pools = "node-1", []Pool{NewPool("a", "/data/a")}
	valid.ControllerAddress, valid.ControllerServerName = "controller:9820", "controller.a"
	valid.ControllerCA, valid.ControllerToken = "/controller/ca.crt", "/controller/token"
	if err := valid.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no port", func(c *Config) { c.ControllerAddress = "a" }, `controllerAddress: "a" must be host:port`},
		{"no host", func(c *Config) { c.ControllerAddress = ":9820" }, `controllerAddress: ":9820" must be host:port`},
		{"port 0", func(c *Config) { c.ControllerAddress = "a:0" }, `controllerAddress: "a:0" must be host:port`},
		{"named port", func(c *Config) { c.ControllerAddress = "a:http" }, `controllerAddress: "a:http" must be host:port`},
		{"no CA", func(c *Config) { c.ControllerCA = "" }, "controllerCA: is missing"},
		{"relative CA", func(c *Config) { c.ControllerCA = "ca" }, `controllerCA: "ca" must be an absolute path`},
		{"no token", func(c *Config) { c.ControllerToken = "" }, "controllerToken: is missing"},
		{"no server name", func(c *Config) { c.ControllerServerName = "" }, `controllerServerName: "" is no name`},
		{
			"server name with capitals", func(c *Config) { c.ControllerServerName = "A" },
			`controllerServerName: "A" is no name`,
		},
	} {
		config := valid
		c.change(&config)
		got := lines(config.Validate())
		if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s: got %q, want %s…", c.name, got, c.want)
		}
	}
}

func TestNamesThatKubernetesTakesAreTaken(t *testing.T) {
	longest := strings.Repeat("n", 253)
	for _, node := range []string{"n", "node-1", "ip-10-0-0-1.eu-west-1.compute.internal", "10.0.0.1", longest} {
		for _, driver := range []string{"d", "hostpath.csi.local", "2.csi", longest[:54]} {
			c := Default()
			c.NodeName, c.DriverName, c.Pools = node, driver, []Pool{NewPool("a", "/data/a")}
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		}
	}
}

// One mistake gives one fault: "/" contains every other path, which is not reported again.
func TestTheWholeNodeAsADirectoryIsOneFault(t *testing.T) {
	for _, c := range []struct{ kubelet, pool, hostPath, want string }{
		{"/var/lib/kubelet", "/", "/home/x", `pools[0].path: "/" is the whole node`},
		{"/", "/data/a", "/home/x", `kubeletDir: "/" is not kubelet's directory: give kubelet's --root-dir`},
		{"/var/lib/kubelet", "/data/a", "/", `hostPaths[1].path: not allowed: host path "/"`},
	} {
		config := Default()
		config.NodeName, config.KubeletDir = "n", c.kubelet
		config.Pools = []Pool{NewPool("a", c.pool), NewPool("b", "/data/b")}
		config.Pools[0].Default = true
		config.HostPaths = []HostPath{{Path: "/srv", ReadOnly: true}, {Path: c.hostPath}}
		if got := lines(config.Validate()); len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("got %q, want %s…", got, c.want)
		}
	}
}

func TestSidecarGroupIsNotRootAndAGroup(t *testing.T) {
	for _, gid := range []uint32{0, math.MaxUint32} {
		c := Default()
		c.NodeName, c.Pools = "node-1", []Pool{NewPool("a", "/data/a")}
		c.SidecarGroup = gid
		if err := c.Validate(); err != nil {
			t.Errorf("%d without a socket for it: %v", gid, err)
		}
		c.SidecarEndpoint = "unix:///sidecars/csi.sock"
		if got := lines(c.Validate()); len(got) != 1 || !strings.HasPrefix(got[0], "sidecarGroup: ") {
			t.Errorf("%d: got %q", gid, got)
		}
	}
}

func TestValidateRefusesEachBadPool(t *testing.T) {
	for _, c := range []struct {
		name  string
		field string
		value any
		want  string
	}{
		{"dot in name", "Name", "a.b", "pools[0].name: "},
		{"dash first", "Name", "-a", "pools[0].name: "},
		{"64 characters", "Name", strings.Repeat("a", 64), "pools[0].name: "},
		{"no path", "Path", "", "pools[0].path: is missing"},
		{"slash at the end", "Path", "/a/", "pools[0].path: "},
		{"newline in path", "Path", "/a\nb", "pools[0].path: "},
		{"root", "Path", "/", "pools[0].path: \"/\" is the whole node"},
		{"kubelet's directory", "Path", "/var/lib/kubelet", "pools[0].path: "},
		{"in kubelet's directory", "Path", "/var/lib/kubelet/pods", "pools[0].path: "},
		{"around kubelet's directory", "Path", "/var", "pools[0].path: "},
		{"proc", "Path", "/proc/1/root", "pools[0].path: "},
		{"dev", "Path", "/dev", "pools[0].path: "},
		{"around the socket", "Path", "/csi", "pools[0].path: "},
		{"no overcommit", "Overcommit", 0.0, "pools[0].overcommit: 0 must be a factor of 0.1 to 1000"},
		{"not a number", "Overcommit", math.NaN(), "pools[0].overcommit: "},
		{"infinite", "Overcommit", math.Inf(1), "pools[0].overcommit: "},
		{"negative reserve", "Reserve", int64(-1), "pools[0].reserve: "},
		{"no quota mode", "Quota", "", "pools[0].quota: "},
		{"negative retention", "TrashRetention", -time.Nanosecond, "pools[0].trashRetention: "},
		{"no copies", "MaxCopies", int64(0), "pools[0].maxCopies: 0 must be 1 to 64"},
		{"fewer snapshots than none", "MaxSnapshotsPerVolume", int64(-1), "pools[0].maxSnapshotsPerVolume: -1 must be 0 (no limit)"},
		{"too many copies", "MaxCopies", int64(65), "pools[0].maxCopies: "},
		{"copies that never end", "CopyBytesPerSecond", int64(1), "pools[0].copyBytesPerSecond: 1 must be 0 (no limit) or at least 1048576"},
		{"copies backwards", "CopyBytesPerSecond", int64(-1), "pools[0].copyBytesPerSecond: "},
		{"endless retention", "TrashRetention", 8761 * time.Hour, "pools[0].trashRetention: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool := NewPool("a", "/data/a")
			reflect.ValueOf(&pool).Elem().FieldByName(c.field).Set(reflect.ValueOf(c.value))
			config := Default()
			config.NodeName, config.Pools = "n", []Pool{pool}
			got := lines(config.Validate())
			if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
				t.Errorf("got %q\nwant %s…", got, c.want)
			}
		})
	}
}

func TestPoolsMustDifferAndOneBeTheDefault(t *testing.T) {
	pool := func(name, path string, isDefault ...bool) Pool {
		p := NewPool(name, path)
		p.Default = len(isDefault) > 0
		return p
	}
	for _, c := range []struct {
		name  string
		pools []Pool
		want  string
	}{
		{"apart", []Pool{pool("a", "/d/a", true), pool("b", "/d/ab")}, ""},
		{"same name", []Pool{pool("a", "/a", true), pool("a", "/b")}, `pools[1].name: "a" is the name of another pool (pools[0].name): names must differ`},
		{"same path", []Pool{pool("a", "/a", true), pool("b", "/a")}, `pools[1].path: "/a" overlaps "/a" of another pool (pools[0].path): pools must lie apart`},
		{"inside", []Pool{pool("a", "/a", true), pool("b", "/a/b")}, `pools[1].path: "/a/b" overlaps "/a" of another pool (pools[0].path): pools must lie apart`},
		{"around", []Pool{pool("a", "/b/a", true), pool("b", "/b")}, `pools[1].path: "/b" overlaps "/b/a" of another pool (pools[0].path): pools must lie apart`},
		{"no default", []Pool{pool("a", "/a"), pool("b", "/b")}, `pools: none of the 2 pools is the default: exactly one must say default: true, which only the --config file can`},
		{"two defaults", []Pool{pool("a", "/a", true), pool("b", "/b", true)}, `pools[1].default: another pool is the default (pools[0].default): exactly one may be`},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := Default()
			config.NodeName, config.Pools = "n", c.pools
			if got := strings.Join(lines(config.Validate()), "\n"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestNodeNameComesFromTheFlagThenTheEnvironmentThenTheHost(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host = strings.ToLower(host)
	for name, c := range map[string]struct{ flag, env, want string }{
		"flag":        {"flag", "env", "flag"},
		"environment": {"", "env", "env"},
		"host":        {"", "", host},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NODE_NAME", c.env)
			f := NewFlags()
			f.NodeName, f.PoolPaths = c.flag, []string{"a=/a"}
			got, err := f.Load()
			if err != nil {
				t.Fatal(err)
			}
			if got.NodeName != c.want {
				t.Errorf("got %q, want %q", got.NodeName, c.want)
			}
		})
	}
	t.Setenv("NODE_NAME", strings.Repeat("x", 300))
	f := NewFlags()
	f.PoolPaths = []string{"a=/a"}
	if _, err := f.Load(); err == nil || !strings.HasPrefix(err.Error(), "NODE_NAME: ") {
		t.Errorf("a bad NODE_NAME is not named: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		"", "---\n", header, header + "pools: [{name: a, path: /a}]", header + "pools:\n- &a\n  name: *a\n",
		"{apiVersion: 1, kind: [], pools: [[], {}, {default: true}, {reserve: 1e99, overcommit: .nan, trashRetention: 9h}]}",
		"? [a]\n: b\n", "a: !!binary x\n", "%YAML 9.9\n---\n", "\xff", "a: 1\n---\nb", "pools: [{<<: {name: a}}]",
	} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "driver.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		c.NodeName, c.sources = "n", flagSources()
		found := &faults{sources: c.sources}
		found.list = parseFile(&c, file, data)
		formal := len(found.list)
		c.check(found)
		for _, one := range found.list {
			if !strings.HasPrefix(one.text, file+":") || strings.Contains(one.text, "\n") ||
				!utf8.ValidString(one.text) {
				t.Errorf("a fault that is not a line of text with the file's name: %q", one.text)
			}
		}
		if formal == 0 && len(c.Pools) == 0 && len(found.list) == 0 {
			t.Error("a configuration without pools was accepted")
		}
	})
}
