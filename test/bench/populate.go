package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// writers is how many goroutines populate a pool.
const writers = 8

// populate gives a pool n volumes, without the durability that makes the driver slow at it: one
// comes from the driver, and the others are its likenesses. The driver that opens the pool is asked
// what it thinks of them.
func (b *bench) populate(ctx context.Context, poolName string, n int) error {
	p, _, err := b.driver(ctx, poolName)
	if err != nil {
		return err
	}
	template := volumeName()
	if _, err := (sockets{Process: p}).create(ctx, template); err != nil {
		return err
	}
	if err := b.stop(p); err != nil {
		return err
	}
	volumes := filepath.Join(b.pool(poolName), "volumes")
	text, err := os.ReadFile(filepath.Join(volumes, template, "volume.json"))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for writer := range writers {
		group.Go(func() error {
			for i := 1 + writer; i < n && ctx.Err() == nil; i += writers {
				name := volumeName()
				if err := imitate(
					filepath.Join(volumes, name),
					"volume.json",
					bytes.ReplaceAll(text, []byte(template), []byte(name)),
				); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return errors.Join(group.Wait(), b.disk.settle())
}

// imitate makes what CreateVolume or CreateSnapshot makes of an empty volume.
func imitate(dir, recordFile string, record []byte) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, recordFile), record, 0o600)
}

// checkPopulation fails unless the driver has n volumes and finds each in order.
func (b *bench) checkPopulation(ctx context.Context, p *process.Process, n int) error {
	count, err := countPages(func(token string) (int, string, error) {
		resp, err := p.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: token})
		return len(resp.GetEntries()), resp.GetNextToken(), err
	})
	if err != nil {
		return err
	}
	if count != n {
		return fmt.Errorf("the driver lists %d volumes, want %d", count, n)
	}
	log, err := os.ReadFile(b.log.Name())
	if err == nil && bytes.Contains(log, []byte("Damaged volume")) {
		err = errors.New("the driver finds damaged volumes")
	}
	return err
}

// countPages counts the entries of a list. page returns how many one page has, and the token of the
// next page, which is empty after the last one.
func countPages(page func(token string) (n int, next string, err error)) (int, error) {
	count := 0
	for token := ""; ; {
		n, next, err := page(token)
		if err != nil {
			return 0, err
		}
		count += n
		if token = next; token == "" {
			return count, nil
		}
	}
}

// fill writes n empty files, a thousand to a directory.
func fill(ctx context.Context, dir string, n int) error {
	for i := range n {
		sub := filepath.Join(dir, strconv.Itoa(i/1000))
		if i%1000 == 0 {
			if err := errors.Join(ctx.Err(), os.Mkdir(sub, 0o755)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(i%1000)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}
