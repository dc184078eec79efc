package ledger

import (
	"errors"
	"math"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func TestAvailableIsNeverNegativeAndNeverMoreThanThereIs(t *testing.T) {
	for _, tc := range []struct {
		title            string
		committed, trash int64
		others           int64
		room             Room
		want             int64
	}{
		{"empty", 0, 0, 0, Room{Size: 100, Free: 100, Overcommit: 1}, 100},
		{"some promised", 30, 20, 0, Room{Size: 100, Free: 100, Overcommit: 1}, 50},
		{"all promised", 50, 50, 0, Room{Size: 100, Free: 100, Overcommit: 1}, 0},
		{"oversold after a change of overcommit", 500, 0, 0, Room{Size: 100, Free: 100, Overcommit: 1}, 0},
		{"taken by others", 10, 0, 0, Room{Size: 100, Free: 5, Overcommit: 1}, 5},
		{
			"taken by others before the start", 10, 0, 15,
			Room{Size: 100, Free: 80, Used: 20, Overcommit: 1},
			75,
		},
		{"full", 10, 0, 0, Room{Size: 100, Overcommit: 1}, 0},
		{
			"reserve larger than the filesystem", 0, 0, 0,
			Room{Size: 100, Free: 100, Overcommit: 1, Reserve: 200},
			0,
		},
		{
			"endless", math.MaxInt64, math.MaxInt64, 0,
			Room{Size: math.MaxInt64, Free: math.MaxInt64, Overcommit: 1},
			0,
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			l := Ledger{
				committed: tc.committed, trash: tc.trash, others: others{bytes: tc.others},
			}
			if got := l.Available(tc.room); got != tc.want {
				t.Errorf("available is %d, want %d", got, tc.want)
			}
			if err := l.Reserve(tc.want+1, tc.room); tc.want < math.MaxInt64 &&
				!errors.Is(err, volume.ErrNoSpace) {
				t.Errorf("one byte more: %v, want ErrNoSpace", err)
			}
			if err := l.Reserve(tc.want, tc.room); err != nil {
				t.Errorf("what is available: %v", err)
			}
		})
	}
}

// The error of a full pool has all numbers, so that an operator can add them up.
func TestNoSpaceIsASumThatAddsUp(t *testing.T) {
	for _, tc := range []struct {
		title            string
		committed, trash int64
		room             Room
		want             string
	}{
		{
			"promised", 30, 20,
			Room{Size: 100, Free: 95, Used: 5, Overcommit: 1, Reserve: 10},
			"35 available: (filesystem 100 - used by others 5) * overcommit 1 - reserve 10" +
				" - promised to volumes 30 - waiting to be purged 20",
		},
		{
			"overcommitted", 60, 0,
			Room{Size: 100, Free: 60, Used: 20, Overcommit: 1.5, Reserve: 10},
			"50 available: (filesystem 100 - used by others 20) * overcommit 1.5 - reserve 10" +
				" - promised to volumes 60 - waiting to be purged 0",
		},
		{
			"taken by others since the start", 30, 0,
			Room{Size: 100, Free: 20, Overcommit: 2, Reserve: 10},
			"30 available: free on the filesystem 20 * overcommit 2 - reserve 10",
		},
		{
			"oversold", 90, 0,
			Room{Size: 100, Free: 100, Used: 20, Overcommit: 1},
			"0 available: (filesystem 100 - used by others 20) * overcommit 1 - reserve 0" +
				" - promised to volumes 90 - waiting to be purged 0",
		},
	} {
		t.Run(tc.title, func(t *testing.T) {
			l := Ledger{
				committed: tc.committed, trash: tc.trash, others: others{bytes: tc.room.Used},
			}
			want := "no space: 1000 bytes wanted, " + tc.want + ": ask for less, or make room: delete " +
				"volumes, snapshots or other files of this pool"
			if err := l.Reserve(1000, tc.room); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestSumsBeyondTheLargestNumberStayThere(t *testing.T) {
	var l Ledger
	l.Add(math.MaxInt64)
	l.Add(math.MaxInt64)
	l.AddTrash(math.MaxInt64)
	l.AddTrash(1)
	if committed, trash := l.Counts(); committed != math.MaxInt64 || trash != math.MaxInt64 {
		t.Errorf("counts are %d and %d", committed, trash)
	}
}

func TestAccountHasWhatIsChargedAndNotUncharged(t *testing.T) {
	var a Accounts
	one, other := Account{QuotaID: 1}, Account{QuotaID: 1, Created: 1}
	a.Charge(one, 5)
	a.Charge(one, math.MaxInt64)
	a.Charge(Account{}, 5)
	if got := a.Charged(one); got != math.MaxInt64 {
		t.Errorf("%d are charged", got)
	}
	a.Uncharge(one, math.MaxInt64-2)
	if got := a.Charged(one); got != 2 {
		t.Errorf("%d are charged, want 2", got)
	}
	a.Uncharge(one, 3)
	if a.Charged(one) != 0 || a.Charged(other) != 0 || a.Charged(Account{}) != 0 {
		t.Errorf("left are %v", a.bytes)
	}
}

// A filesystem frees some things after it has forgotten their names, so the first estimate may be
// too high. It never rises by what others write later, because that is no longer free.
func TestWhatOthersUseOnlyFallsUntilThePoolIsEmpty(t *testing.T) {
	var l Ledger
	l.Add(30)
	l.AddUnwritten(10)
	l.MeasureOthers(Room{Size: 100, Used: 60})
	for _, step := range []struct {
		title string
		do    func()
		want  int64
	}{
		{"measured", func() {}, 40},
		{"used by others later", func() { l.Available(Room{Size: 100, Used: 90}) }, 40},
		{"freed", func() { l.Available(Room{Size: 100, Used: 35}) }, 35},
		{"measured again, higher", func() { l.MeasureOthersAgain(Room{Size: 100, Used: 90}, 10) }, 35},
		{"measured again", func() { l.MeasureOthersAgain(Room{Size: 100, Used: 35}, 5) }, 10},
		{"deleted", func() { l.MoveToTrash(30); l.Available(Room{Size: 100, Used: 50}) }, 10},
		{"purged", func() { l.Purged(30); l.Available(Room{Size: 100, Used: 50}) }, 50},
	} {
		if step.do(); l.Others() != step.want {
			t.Errorf("%s: %d, want %d", step.title, l.Others(), step.want)
		}
	}
}

func TestWhatOthersUseIsAtLeastWhatWasKnownAndIsStillUsed(t *testing.T) {
	for used, want := range map[int64]int64{80: 50, 20: 20} {
		var l Ledger
		l.Add(60)
		l.RecallOthers(50)
		l.MeasureOthers(Room{Size: 100, Used: used})
		if l.Others() != want {
			t.Errorf("of %d used: %d, want %d", used, l.Others(), want)
		}
	}
}

func TestSnapshotCountsAtLeastWhatItsInodesOccupy(t *testing.T) {
	for _, tc := range []struct{ bytes, inodes, want int64 }{
		{0, 0, 12288},
		{1, 100, 12288 + 100*512},
		{1 << 20, 100, 1 << 20},
	} {
		if got := OfSnapshot(tc.bytes, tc.inodes); got != tc.want {
			t.Errorf("%d bytes and %d inodes count %d, want %d", tc.bytes, tc.inodes, got, tc.want)
		}
	}
}
