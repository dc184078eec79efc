package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	// ConfigAPIVersion says what the fields of the file mean.
	ConfigAPIVersion = "hostpath.csi.local/v1"
	// ConfigKind says that the file is the driver's configuration.
	ConfigKind = "DriverConfiguration"

	// maxConfigBytes is the size that a ConfigMap may have.
	maxConfigBytes = 1 << 20
)

// fileHeader has the file's type and version.
type fileHeader struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
}

// Load merges defaults, environment, file and command line, and validates the result. The error has
// a line for each fault, which begins with the flag, or with the file and line.
func (f *Flags) Load() (Config, error) {
	c := f.Config
	c.Pools = slices.Clone(c.Pools)
	c.sources = flagSources()
	nameNode(&c)
	found := &faults{sources: c.sources}
	if f.ConfigFile != "" {
		c.sources[""] = source{file: f.ConfigFile, line: 1}
		data, err := readConfig(f.ConfigFile)
		if err != nil {
			found.list = append(found.list, fault{1, err.Error()})
			c.sources["pools"] = source{bad: true}
		} else {
			found.list = append(found.list, parseFile(&c, f.ConfigFile, data)...)
		}
	}
	for _, arg := range f.PoolPaths {
		addPool(&c, found, arg)
	}
	c.check(found)
	if err := found.err(); err != nil {
		return Config{}, err
	}
	if len(c.Pools) == 1 {
		c.Pools[0].Default = true
	}
	return c, nil
}

func flagSources() sources {
	return sources{
		"endpoint":        {flag: "--endpoint"},
		"sidecarEndpoint": {flag: "--sidecar-endpoint"},
		"sidecarGroup":    {flag: "--sidecar-group"},
		"nodeName":        {flag: "--node-name"},
		"driverName":      {flag: "--driver-name"},
		"kubeletDir":      {flag: "--kubelet-dir"},
		"metricsAddress":  {flag: "--metrics-address"},
		"statusAddress":   {flag: "--status-address"},
		"hostRoot":        {flag: "--host-root"},

		"gitFetcherSocket": {flag: "--git-fetcher-socket"},

		"controllerAddress":    {flag: "--controller-address"},
		"controllerCA":         {flag: "--controller-ca"},
		"controllerToken":      {flag: "--controller-token"},
		"controllerServerName": {flag: "--controller-server-name"},
		"shutdownGrace":        {flag: "--shutdown-grace"},
	}
}

// nameNode sets a missing node name. Where the host has no name it stays empty, which Validate
// reports.
func nameNode(c *Config) {
	if c.NodeName != "" {
		return
	}
	if name := os.Getenv("NODE_NAME"); name != "" {
		c.NodeName, c.sources["nodeName"] = name, source{flag: "NODE_NAME"}
		return
	}
	if name, err := os.Hostname(); err == nil {
		// as kubelet does (k8s.io/component-helpers/node/util, GetHostname)
		name = strings.ToLower(strings.TrimSpace(name))
		c.NodeName, c.sources["nodeName"] = name, source{flag: "the host's name"}
	}
}

// addPool takes a --pool flag.
func addPool(c *Config, found *faults, arg string) {
	name, path, _ := strings.Cut(arg, "=")
	ok := name != "" && path != ""
	field := fmt.Sprintf("pools[%d]", len(c.Pools))
	c.sources[field] = source{flag: "--pool " + quote(arg), bad: !ok}
	if !ok {
		found.list = append(found.list, fault{0, "--pool " + quote(arg) + ": must be name=path"})
	}
	c.Pools = append(c.Pools, NewPool(name, path))
}

// readConfig reads a file of at most maxConfigBytes. Every error begins with the file's name.
func readConfig(file string) ([]byte, error) {
	// Before opening, because opening a pipe waits for a writer.
	if info, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", file, errors.Unwrap(err))
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: must be a regular file", file)
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", file, errors.Unwrap(err))
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be read: %w", file, errors.Unwrap(err))
	}
	return data, nil
}

// parseFile reads a configuration file into c and returns what is wrong with its form.
func parseFile(c *Config, file string, data []byte) []fault {
	if c.sources == nil {
		c.sources = sources{}
	}
	d := &decoder{file: file, sources: c.sources}
	root := d.document(data)
	if root == nil {
		c.sources[""] = source{file: file, line: 1, bad: true}
		return d.found
	}
	c.sources[""] = source{file: file, line: root.Line}
	var header fileHeader
	known := append(fieldsOf(&header), fieldsOf(c)...)
	d.mapping("", root, known)
	d.expect("apiVersion", header.APIVersion, ConfigAPIVersion)
	d.expect("kind", header.Kind, ConfigKind)
	return d.found
}
