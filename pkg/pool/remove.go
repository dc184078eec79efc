package pool

import (
	"context"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copyjob"
)

// yieldAfter is how many entries are removed before the remover asks whether calls are under way: a
// busy pool's small volumes have to go as fast as they come.
const yieldAfter = 256

// newRemover returns a remover that lets calls go first when there is much to remove.
func newRemover(calls *copyjob.CallGate) *openat.Remover {
	removed := 0
	return openat.NewRemover(func(ctx context.Context) error {
		if removed++; removed <= yieldAfter {
			return nil
		}
		_, err := calls.Yield(ctx)
		return err
	})
}
