package suite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

//go:embed drivers classes.yaml skips.txt
var files embed.FS

// Run says how to run the suite.
type Run struct {
	Suite   cluster.Suite
	Cluster *cluster.Cluster
	// Reports gets a folder for each kind, with report and log.
	Reports string
	// Focus is an expression: only specs whose names match it run.
	Focus string
	// Procs is how many specs run at the same time.
	Procs int
	// Short runs only the specs that a Kind has for it, and wants each of them to pass.
	Short bool
}

// Prepare gives the cluster what the specs need beside the driver: images and classes. It changes
// nothing when it is repeated.
func (r Run) Prepare(ctx context.Context) error {
	if err := r.Cluster.LoadSuiteImages(ctx, r.Suite); err != nil {
		return err
	}
	classes, err := r.classes()
	if err != nil {
		return err
	}
	_, err = r.Cluster.KubectlInput(ctx, strings.NewReader(classes), "apply", "-f", "-")
	return err
}

// Remove deletes the classes.
func (r Run) Remove(ctx context.Context) error {
	classes, err := r.classes()
	if err != nil {
		return err
	}
	_, err = r.Cluster.KubectlInput(ctx, strings.NewReader(classes), "delete", "--ignore-not-found",
		"-f", "-")
	return err
}

func (r Run) classes() (string, error) {
	data, err := files.ReadFile("classes.yaml")
	if err != nil {
		return "", err
	}
	return r.withNodes(string(data))
}

// withNodes puts the names of nodes in the place of what their disks are formatted with: NODE-xfs.
func (r Run) withNodes(text string) (string, error) {
	for _, node := range r.Cluster.Nodes() {
		filesystem, err := node.Filesystem()
		if err != nil {
			return "", err
		}
		text = strings.ReplaceAll(text, "NODE-"+filesystem, node.Name())
	}
	if strings.Contains(text, "NODE-") {
		return "", errors.New("the cluster needs a node with each of btrfs, xfs and ext4")
	}
	return text, nil
}

// Kind runs the specs about one kind of volumes. The error names each that failed, and each that
// skipped for a reason that is not listed.
func (r Run) Kind(ctx context.Context, k Kind) (Result, error) {
	folder, err := filepath.Abs(filepath.Join(r.Reports, k.Name))
	if err != nil {
		return Result{}, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return Result{}, err
	}
	failed := r.ginkgo(ctx, k, folder) // says only that a spec failed, which the report says better
	result, err := read(filepath.Join(folder, "report.json"))
	if err != nil {
		return Result{}, errors.Join(fmt.Errorf("%s: %w", k.Name, err), failed)
	}
	err = result.judge(k.Name)
	if r.Short {
		err = errors.Join(err, result.judgeShort(k))
	}
	return result, err
}

func (r Run) ginkgo(ctx context.Context, k Kind, folder string) error {
	description, err := k.driver()
	if err != nil {
		return err
	}
	if description, err = r.withNodes(description); err != nil {
		return err
	}
	driver := filepath.Join(folder, "driver.yaml")
	if err := os.WriteFile(driver, []byte(description), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	args := append(r.choice(k), r.Suite.Tests, "--",
		"--kubeconfig="+r.Cluster.Kubeconfig(), "--provider=skeleton", "--storage.testdriver="+driver)
	cmd := exec.CommandContext(ctx, r.Suite.Ginkgo, append([]string{
		"--procs=" + strconv.Itoa(r.Procs), "--timeout=6h", "--poll-progress-after=0", "--no-color",
		"--json-report=report.json", "--output-dir=" + folder, "--keep-going",
	}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, folder
	return cmd.Run()
}

// choice is what tells Ginkgo which specs run.
func (r Run) choice(k Kind) []string {
	const driver = "External.Storage.*"
	args := []string{"--label-filter=!Disruptive && !Flaky"}
	if r.Short {
		for _, name := range k.short {
			args = append(args, "--focus="+driver+regexp.QuoteMeta(name)+"$")
		}
	} else {
		args = append(args, "--focus="+driver+k.focus+".*"+r.Focus)
	}
	if !canGrowExt4() {
		k = k.withoutGrowth()
	}
	if k.skip != "" {
		args = append(args, "--skip="+k.skip)
	}
	return args
}

// Short lists the kinds that have specs for a short run.
func Short() []Kind {
	var kinds []Kind
	for _, k := range Kinds() {
		if len(k.short) > 0 {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
