package pool

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyAFilesystemWithoutReflinksIsCopiedBlockByBlock(t *testing.T) {
	for _, err := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL} {
		if !lacksReflinks(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v fails the copy", err)
		}
	}
	for _, err := range []error{unix.ENOSPC, unix.EIO, unix.EDQUOT, unix.EROFS, errors.New("another")} {
		if lacksReflinks(err) {
			t.Errorf("%v is taken for a filesystem without reflinks", err)
		}
	}
}
