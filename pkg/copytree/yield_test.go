package copytree

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// counter is a Yielder that always reports other work, and fails after a number of calls.
type counter struct {
	asked, enough int
	err           error
}

func (c *counter) Yield(context.Context) (others bool, err error) {
	if c.asked++; c.asked > c.enough {
		err = c.err
	}
	return true, err
}

func TestCopyYieldsBeforeEachFileAndEachChunk(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	w.write("a", "small")
	must(t, appendTo(w.in("large"), 4*MaxChunk))
	c := &counter{enough: 1000}
	w.copySame(Options{Workers: 1, Yielder: c})
	if least := 2 + 4; c.asked < least {
		t.Errorf("it yielded %d times, want %d at least", c.asked, least)
	}
}

func TestCopyEndsWithItsYielder(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	for i := range 10 {
		w.write(strconv.Itoa(i), "")
	}
	c := &counter{enough: 4, err: errors.New("enough")}
	stats, err := w.try(t.Context(), Options{Workers: 1, Yielder: c})
	if !errors.Is(err, c.err) || stats.Files != int64(c.enough) {
		t.Errorf("%d files were copied and the error is %v, want %d and the Yielder's", stats.Files, err,
			c.enough)
	}
}

// A copy is complete whether its content was written early in large steps or in small ones.
func TestCopyOfManyFilesIsWhole(t *testing.T) {
	for name, yielder := range map[string]Yielder{"alone": nil, "with others": &racing{}} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t, disks.Ext4)
			for i := range 2 * syncfsFiles {
				w.write(strconv.Itoa(i), strings.Repeat("x", i%5000))
			}
			w.copySame(Options{Yielder: yielder})
		})
	}
}

// racing is a Yielder for concurrent workers.
type racing struct{}

func (*racing) Yield(context.Context) (others bool, err error) { return true, nil }
