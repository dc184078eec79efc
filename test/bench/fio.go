package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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
	// suffix makes of the file's path that of another one, which is new each time; empty: the file
	// is overwritten.
	suffix string
}

// The ways through which writes go: around the page cache of the filesystem that is written to, or
// through it.
var (
	direct   = []string{"--direct=1", "--ioengine=libaio"}
	buffered = []string{"--direct=0", "--ioengine=psync"}
)

// patterns write around the page cache first: direct writes have to look for what others have left
// there.
var patterns = []pattern{
	random("4 KiB random, direct, 1 at a time", slices.Concat(direct, []string{"--iodepth=1"})),
	random("4 KiB random, direct, 16 at a time", slices.Concat(direct, []string{"--iodepth=16"})),
	random("4 KiB random, direct, 128 at a time", slices.Concat(direct, []string{"--iodepth=128"})),
	sequential("1 MiB sequential, direct, 4 at a time",
		slices.Concat(direct, []string{"--iodepth=4"})),
	random("4 KiB random, cached, fdatasync each 256",
		slices.Concat(buffered, []string{"--fdatasync=256"})),
	sequential("1 MiB sequential, cached, fdatasync each 64",
		slices.Concat(buffered, []string{"--fdatasync=64"})),
}

// allocating writes blocks that the file does not have yet, which a quota counts, each once.
var allocating = []pattern{
	random("4 KiB random, direct, 16 at a time, new blocks",
		slices.Concat(direct, []string{"--iodepth=16"})).toNew(),
	sequential("1 MiB sequential, direct, 4 at a time, new blocks",
		slices.Concat(direct, []string{"--iodepth=4"})).toNew(),
}

func random(name string, args []string) pattern {
	iops := func(w fioWrite) float64 { return w.IOPS }
	return pattern{
		name:  name,
		unit:  "IOPS",
		args:  append(args, "--rw=randwrite", "--bs=4k"),
		value: iops,
	}
}

func sequential(name string, args []string) pattern {
	mebibytes := func(w fioWrite) float64 { return w.Bytes / (1 << 20) }
	return pattern{
		name:  name,
		unit:  "MiB/s",
		args:  append(args, "--rw=write", "--bs=1M"),
		value: mebibytes,
	}
}

func (p pattern) toNew() pattern {
	p.suffix = "-new"
	return p
}

// fioWrite is what fio(1) says of the writes of a job.
type fioWrite struct {
	IOPS  float64 `json:"iops"`
	Bytes float64 `json:"bw_bytes"` //nolint:tagliatelle // fio's own name
}

// layOut writes the file anew, or all of a device, so that every measurement overwrites.
func layOut(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err = fio(ctx, path,
		slices.Concat(direct, []string{"--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"}))
	return err
}

// measure is one run of a pattern on the file, or on a new one beside it for as long as it has
// room.
func (p pattern) measure(ctx context.Context, path string, d time.Duration) (float64, error) {
	args := append(slices.Clone(p.args), fmt.Sprintf("--runtime=%dms", d.Milliseconds()))
	if p.suffix == "" {
		w, err := fio(ctx, path, append(args, "--time_based"))
		return p.value(w), err
	}
	w, err := fio(ctx, path+p.suffix, args)
	return p.value(w), errors.Join(err, os.Remove(path+p.suffix))
}

func fio(ctx context.Context, path string, args []string) (fioWrite, error) {
	program, err := exec.LookPath("fio")
	if err != nil {
		return fioWrite{}, errors.New("needs fio: run hack/ensure-packages as root")
	}
	command := append([]string{
		program,
		"--name=bench",
		"--filename=" + path,
		fmt.Sprintf("--size=%d", fioBytes),
		"--fallocate=none",
		"--randrepeat=0",
		"--output-format=json",
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
	if err := json.Unmarshal([]byte(out[max(0, strings.IndexByte(out, '{')):]), &report); err != nil ||
		len(report.Jobs) != 1 {
		return fioWrite{}, fmt.Errorf("fio: %w: %s", errors.Join(err, os.ErrInvalid), out)
	}
	return report.Jobs[0].Write, nil
}
