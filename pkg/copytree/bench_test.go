package copytree

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// BenchmarkTree copies 10,000 small files, without the sync at the end.
func BenchmarkTree(b *testing.B) {
	for _, fstype := range disks.Types() {
		for _, workers := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/%d", fstype, workers), func(b *testing.B) {
				w := fixture{t: b, fstype: fstype, src: disks.New(b, fstype, 4<<30).Dir + "/src"}
				w.mkdir(".")
				content := bytes.Repeat([]byte("content."), 512)
				for i := range 10_000 {
					sub := strconv.Itoa(i / 1000)
					w.mkdir(sub)
					w.write(sub+"/"+strconv.Itoa(i), string(content))
				}
				for b.Loop() {
					w.dst = w.src + "-copy"
					must(b, os.Mkdir(w.dst, 0o700))
					w.copy(Options{Workers: workers, Durability: Volatile})
					b.StopTimer()
					must(b, os.RemoveAll(w.dst))
					b.StartTimer()
				}
			})
		}
	}
}
