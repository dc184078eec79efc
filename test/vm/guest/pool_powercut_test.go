//go:build vm

package guest

import (
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
	// clients create and delete at the same time, so that they share fsyncs.
	clients = 8
	// kept is how many volumes a client has before it deletes the oldest.
	kept = 3
	// warmUp is how many each client makes before the power may go.
	warmUp = 2 * kept
	// slot is what a client writes of itself on the raw disk.
	slot = 512
)

// promises are what a client has been told of one pool: volumes number 1 to Created were made, 1 to
// Deleted are gone.
type promises struct{ Created, Deleted int }

func name(client, n int) volume.Name {
	parsed, err := volume.ParseName(fmt.Sprintf("client-%d-volume-%d", client, n))
	if err != nil {
		panic(err)
	}
	return parsed
}

func openPool(t *testing.T, fstype string) *pool.Pool {
	p, err := pool.Open(t.Context(),
		pool.Options{Name: fstype, Path: filepath.Join(Disk(t, fstype), "pool"), Overcommit: 100})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPoolBeforePowerCut ends with the machine, while clients create and delete, and others exchange
// trees.
func TestPoolBeforePowerCut(t *testing.T) {
	raw, err := os.OpenFile(Disk(t, "raw"), os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var warm, running sync.WaitGroup
	for i, fstype := range filesystems {
		p := openPool(t, fstype)
		for client := range clients {
			warm.Add(1)
			note := noteAt(raw, i*clients+client)
			running.Go(func() { churn(t, p, client, note, warm.Done) })
		}
		warm.Add(1)
		trees := openPool(t, treesDisk(fstype))
		running.Go(func() { exchange(t, trees, noteAt(raw, treesSlot(i)), warm.Done) })
	}
	warm.Wait()
	AllowPowerCut()
	running.Wait()
}

// treesDisk is the disk on which trees are exchanged. It is another one than that on which clients
// create and delete: an exchange makes all of its filesystem durable, also what others have not.
func treesDisk(fstype string) string { return "trees-" + fstype }

// treesSlot is the slot of the client that exchanges trees on the i-th of these disks.
func treesSlot(i int) int { return len(filesystems)*clients + i }

// noteAt returns what writes promises into a slot of the raw disk.
func noteAt(raw *os.File, n int) func(promises) error {
	return func(told promises) error {
		block := make([]byte, slot)
		content, err := json.Marshal(told)
		copy(block, content)
		_, writeErr := raw.WriteAt(block, int64(n)*slot)
		return errors.Join(err, writeErr)
	}
}

// readPromises reads them.
func readPromises(t *testing.T, raw *os.File, n int) (told promises) {
	block := make([]byte, slot)
	if _, err := raw.ReadAt(block, int64(n)*slot); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(trimZeros(block), &told); err != nil {
		t.Fatalf("client %d: %q: %v", n, block, err)
	}
	return told
}

// churn creates and deletes, and notes each promise where it outlives the machine.
func churn(t *testing.T, p *pool.Pool, client int, note func(promises) error, warm func()) {
	var told promises
	for {
		_, err := p.Create(t.Context(), volume.CreateRequest{
			Name: name(client, told.Created+1),
			Size: volume.SizeRange{Required: 1 << 20},
			Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		})
		if err != nil {
			t.Errorf("client %d: %v", client, err)
			return
		}
		told.Created++
		if err := note(told); err != nil {
			t.Error(err)
			return
		}
		if told.Created == warmUp {
			warm()
		}
		if told.Created-told.Deleted <= kept {
			continue
		}
		if err := p.Delete(t.Context(), volume.NewID(p.ID(), name(client, told.Deleted+1))); err != nil {
			t.Errorf("client %d: %v", client, err)
			return
		}
		told.Deleted++
		if err := note(told); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestPoolAfterPowerCut finds what was promised, and nothing half made.
func TestPoolAfterPowerCut(t *testing.T) {
	raw, err := os.Open(Disk(t, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for i, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			p := openPool(t, fstype)
			defer p.Close()
			for client := range clients {
				checkPromises(t, p, client, readPromises(t, raw, i*clients+client))
			}
			trees := openPool(t, treesDisk(fstype))
			defer trees.Close()
			checkTrees(t, trees, readPromises(t, raw, treesSlot(i)))
		})
	}
}

func trimZeros(block []byte) []byte {
	for i, b := range block {
		if b == 0 {
			return block[:i]
		}
	}
	return block
}

// checkPromises leaves open what was under way: the next volume to be made, and the next one to be
// deleted.
func checkPromises(t *testing.T, p *pool.Pool, client int, told promises) {
	t.Logf("client %d was told that %d were made and %d deleted", client, told.Created, told.Deleted)
	for n := 1; n <= told.Created+1; n++ {
		id := volume.NewID(p.ID(), name(client, n))
		v, err := p.Get(id)
		var dataErr error
		if err == nil {
			var data *os.File
			if data, dataErr = v.Data(); dataErr == nil {
				data.Close()
			}
		}
		underWay := n == told.Deleted+1 || n == told.Created+1
		switch absent := errors.Is(err, volume.ErrNotFound); {
		case absent && (n <= told.Deleted || underWay):
		case !absent && n <= told.Deleted:
			t.Errorf("volume %d of client %d was deleted, and is there: %v", n, client, err)
		case err != nil || dataErr != nil:
			t.Errorf("volume %d of client %d: %v, %v", n, client, err, dataErr)
		}
	}
}
