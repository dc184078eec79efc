package copytree

import "testing"

func TestProgressIsForPeople(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		bytes, files, expected int64
		want                   string
	}{
		{0, 0, 10 * gib, "nothing copied yet"},
		{3 * gib, 7, 10 * gib, "3 GiB of about 10 GiB copied, 30 %"},
		{10*gib - 1, 7, 10 * gib, "9.9 GiB of about 10 GiB copied, 99 %"},
		{11 * gib, 7, 10 * gib, "11 GiB in 7 files and directories copied"},
		{3 * gib, 7, 0, "3 GiB in 7 files and directories copied"},
	} {
		var p Progress
		p.bytes.Store(tt.bytes)
		p.files.Store(tt.files)
		p.Expect(tt.expected)
		if got := p.String(); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}
