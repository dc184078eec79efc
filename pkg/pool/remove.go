package pool

import (
	"context"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// freely is how many entries are removed without asking whether calls are under way: a busy pool's
// small volumes have to go as fast as they come.
const freely = 256

// newRemover returns a remover that lets calls go first when there is much to remove.
func newRemover(calls *foreground) *openat.Remover {
	removed := 0
	return openat.NewRemover(func(ctx context.Context) error {
		if removed++; removed <= freely {
			return nil
		}
		_, err := calls.Yield(ctx)
		return err
	})
}
