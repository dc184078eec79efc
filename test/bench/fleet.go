package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// fleetFlags make the measurements of test/fleet small enough for this bench: minutes, not an hour.
const fleetFlags = "--rounds 1 --nodes 100 --linked 500 --volumes 5000 --burst 200 --idle 30s"

// centralDeployment runs test/fleet, and takes over its rows. It prints its chapters itself.
func (b *bench) centralDeployment(ctx context.Context) error {
	if b.fleet == "" {
		return nil
	}
	program, results := filepath.Join(b.dir, "fleet"), filepath.Join(b.dir, "fleet.json")
	said, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program,
		"github.com/csi-hostpath/csi-hostpath/test/fleet").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build test/fleet: %w\n%s", err, said)
	}
	cmd := exec.CommandContext(ctx, program,
		append(strings.Fields(b.fleet), "--dir", b.dir, "--json", results)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up
	cmd.Stdout, cmd.Stderr = b.out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("test/fleet: %w", err)
	}
	content, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	var r report.Report
	if err := json.Unmarshal(content, &r); err != nil {
		return err
	}
	b.report.Rows = append(b.report.Rows, r.Rows...)
	return nil
}
