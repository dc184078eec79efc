package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// fioBytes is the size of the file that is written to, over and over.
const fioBytes = 256 << 20

// pattern is a way to write.
type pattern struct {
	name  string
	unit  string
	args  []string
	value func(fioWrite) float64
}

// patterns write around the page cache: what is measured is the way to the disk.
var patterns = []pattern{
	{
		"4 KiB random write, 16 at a time", "IOPS",
		[]string{"--rw=randwrite", "--bs=4k", "--iodepth=16"},
		func(w fioWrite) float64 { return w.IOPS },
	},
	{
		"1 MiB sequential write, 4 at a time", "MiB/s",
		[]string{"--rw=write", "--bs=1M", "--iodepth=4"},
		func(w fioWrite) float64 { return w.Bytes / (1 << 20) },
	},
}

// fioWrite is what fio(1) says of the writes of a job.
type fioWrite struct {
	IOPS  float64 `json:"iops"`
	Bytes float64 `json:"bw_bytes"` //nolint:tagliatelle // fio's own name
}

// layOut writes the file once, so that every measurement overwrites.
func layOut(ctx context.Context, dir string) error {
	_, err := fio(ctx, dir, "--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1")
	return err
}

// measure is one run of a pattern on the file.
func (p pattern) measure(ctx context.Context, dir string, d time.Duration) (float64, error) {
	w, err := fio(ctx, dir, append(p.args, "--time_based", fmt.Sprintf("--runtime=%dms", d.Milliseconds()))...)
	return p.value(w), err
}

func fio(ctx context.Context, dir string, args ...string) (fioWrite, error) {
	path, err := exec.LookPath("fio")
	if err != nil {
		return fioWrite{}, errors.New("needs fio: run hack/ensure-packages as root")
	}
	command := append([]string{
		path, "--name=bench", "--filename=" + filepath.Join(dir, "fio"), fmt.Sprintf("--size=%d", fioBytes), "--fallocate=none",
		"--direct=1", "--ioengine=libaio", "--randrepeat=0", "--output-format=json",
	}, args...)
	out, err := output(ctx, command...)
	if err != nil {
		return fioWrite{}, err
	}
	var report struct {
		Jobs []struct {
			Write fioWrite `json:"write"`
		} `json:"jobs"`
	}
	// A note may stand before the report.
	if err := json.Unmarshal([]byte(out[max(0, strings.IndexByte(out, '{')):]), &report); err != nil || len(report.Jobs) != 1 {
		return fioWrite{}, fmt.Errorf("fio: %w: %s", errors.Join(err, os.ErrInvalid), out)
	}
	return report.Jobs[0].Write, nil
}
