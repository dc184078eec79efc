//go:build vm

package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// warmRounds is how many copies of each kind are promised on each filesystem before the power
	// may go.
	warmRounds = 2
	// smallFiles and largeFile are what is copied: the one is metadata more than anything else, the
	// other content.
	smallFiles = 30
	largeFile  = 600_000
)

// copies are what the client of a pool has been told of: so many snapshots, restores, and restores
// into the pool of the next filesystem.
type copies struct{ Snapshots, Restored, Moved int }

// node is its pools, in the order of filesystems.
type node []*pool.Pool

func (n node) ByID(id volume.PoolID) (*pool.Pool, error) {
	for _, p := range n {
		if p.ID() == id {
			return p, nil
		}
	}
	return nil, volume.ErrNotFound
}

func openNode(t *testing.T) (n node) {
	for _, fstype := range filesystems {
		n = append(n, openPool(t, fstype))
	}
	return n
}

// copyName is that of what the client of a filesystem makes in a round.
func copyName(kind string, client, round int) volume.Name {
	parsed, err := volume.ParseName(fmt.Sprintf("%s-%d-%d", kind, client, round))
	if err != nil {
		panic(err)
	}
	return parsed
}

// TestCopiesBeforePowerCut ends with the machine, while every pool's client changes its volume and
// has it copied, round by round. Nothing of it was ever made durable but by the copies.
func TestCopiesBeforePowerCut(t *testing.T) {
	raw, err := os.OpenFile(Disk(t, "raw"), os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := openNode(t)
	var warm, running sync.WaitGroup
	for client := range n {
		warm.Add(1)
		running.Go(func() {
			if err := n.copyForever(t, client, raw, warm.Done); err != nil {
				t.Errorf("the client of %s: %v", filesystems[client], err)
			}
		})
	}
	warm.Wait()
	AllowPowerCut()
	running.Wait()
}

// copyForever notes each promise where it outlives the machine.
func (n node) copyForever(t *testing.T, client int, raw *os.File, warm func()) error {
	p := n[client]
	source, err := p.Create(t.Context(), volume.CreateRequest{
		Name: copyName("source", client, 0),
		Size: volume.SizeRange{Required: 8 * mib},
		Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
	})
	if err != nil {
		return err
	}
	told, err := readNote(raw, client) // of an earlier life
	if err != nil {
		return err
	}
	first := told.Moved + 1
	for round := first; ; round++ {
		if err := writeRound(dataOf(t, p, "volumes", source.ID.Dir()), round); err != nil {
			return err
		}
		s, err := p.CreateSnapshot(t.Context(),
			volume.SnapshotRequest{Name: copyName("snapshot", client, round), Source: source.ID})
		if err != nil {
			return err
		}
		told.Snapshots = round
		err = told.note(raw, client)
		if err == nil {
			err = n.restoreTo(t, p, copyName("restored", client, round), s)
		}
		if err != nil {
			return err
		}
		told.Restored = round
		err = told.note(raw, client)
		if err == nil {
			err = n.restoreTo(t, n.after(client), copyName("moved", client, round), s)
		}
		if err != nil {
			return err
		}
		told.Moved = round
		if err := told.note(raw, client); err != nil {
			return err
		}
		if round == first+warmRounds-1 {
			warm()
		}
	}
}

// after is the pool of another filesystem.
func (n node) after(client int) *pool.Pool { return n[(client+1)%len(n)] }

func (n node) restoreTo(t *testing.T, to *pool.Pool, name volume.Name, s volume.Snapshot) error {
	_, err := to.CreateFrom(t.Context(), volume.CreateRequest{
		Name:   name,
		Size:   volume.SizeRange{Required: s.RestoreBytes},
		Source: volume.FromSnapshot(s.ID),
		Spec:   s.Spec,
	}, n)
	return err
}

func readNote(raw *os.File, client int) (c copies, err error) {
	block := make([]byte, slot)
	if _, err := raw.ReadAt(block, int64(client)*slot); err != nil {
		return c, err
	}
	if block = trimZeros(block); len(block) == 0 {
		return c, nil
	}
	return c, json.Unmarshal(block, &c)
}

func (c copies) note(raw *os.File, client int) error {
	block := make([]byte, slot)
	content, err := json.Marshal(c)
	copy(block, content)
	_, writeErr := raw.WriteAt(block, int64(client)*slot)
	return errors.Join(err, writeErr)
}

// dataOf is the way to data that an administrator would take.
func dataOf(t *testing.T, p *pool.Pool, parent, dir string) string {
	return filepath.Join(Disk(t, p.Name()), "pool", parent, dir, "data")
}

// contentOf is what the files of a round have.
func contentOf(round int) map[string][]byte {
	content := map[string][]byte{
		"large": bytes.Repeat(fmt.Appendf(nil, "round %6d\n", round), largeFile/13),
	}
	for i := range smallFiles {
		content[fmt.Sprintf("directory-%d/small-%d", i%3, i)] = fmt.Appendf(nil, "file %d of round %d", i,
			round)
	}
	return content
}

func writeRound(root string, round int) error {
	for name, content := range contentOf(round) {
		path := filepath.Join(root, name)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, content, 0o600),
		); err != nil {
			return err
		}
	}
	return nil
}

// TestCopiesAfterPowerCut finds what was promised with all of its content, and nothing half made.
func TestCopiesAfterPowerCut(t *testing.T) {
	raw, err := os.Open(Disk(t, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	n := openNode(t)
	for client, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			told, err := readNote(raw, client)
			if err != nil || told.Moved < warmRounds {
				t.Fatalf("the note is %+v, %v", told, err)
			}
			t.Logf("the client was told of %+v", told)
			n.checkCopies(t, client, told)
		})
	}
	for _, p := range n {
		p.Close()
	}
}

// checkCopies leaves open what was under way: the next of each kind.
func (n node) checkCopies(t *testing.T, client int, told copies) {
	p := n[client]
	for round := 1; round <= told.Snapshots+1; round++ {
		id := volume.NewSnapshotID(p.ID(), copyName("snapshot", client, round))
		_, err := p.GetSnapshot(id)
		checkCopy(t, id, err, dataOf(t, p, "snapshots", id.Dir()), round, round <= told.Snapshots)
		for _, c := range []struct {
			kind string
			in   *pool.Pool
			told int
		}{{"restored", p, told.Restored}, {"moved", n.after(client), told.Moved}} {
			id := volume.NewID(c.in.ID(), copyName(c.kind, client, round))
			_, err := c.in.Get(id)
			checkCopy(t, id, err, dataOf(t, c.in, "volumes", id.Dir()), round, round <= c.told)
		}
	}
}

func checkCopy(t *testing.T, id fmt.Stringer, err error, root string, round int, promised bool) {
	if errors.Is(err, volume.ErrNotFound) && !promised {
		return
	}
	if err != nil {
		t.Errorf("%s: %v", id, err)
		return
	}
	for name, want := range contentOf(round) {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %s has %d bytes, %v, want the %d of round %d", id, name, len(got), err, len(want),
				round)
			return
		}
	}
}
