package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

// mirror is a repository that has packages by their name and version.
type mirror struct {
	has     []string
	failure error // of what it does not have
	newest  debian.Lock
	asked   []debian.Description
}

func (m *mirror) repository() repository {
	return repository{
		fetch: func(
			_ debian.Lock, _ context.Context, _ string, pkg debian.Package,
		) (string, error) {
			if name := pkg.Name + " " + pkg.Version; !slices.Contains(m.has, name) {
				return "", fmt.Errorf("%s: %w", name, m.failure)
			}
			return "", nil
		},
		update: func(
			_ context.Context, description debian.Description, _ time.Time,
		) (debian.Lock, error) {
			m.asked = append(m.asked, description)
			if m.newest.Packages == nil {
				return debian.Lock{}, os.ErrDeadlineExceeded
			}
			return m.newest, nil
		},
	}
}

func lockOf(versions ...string) debian.Lock {
	lock := debian.Lock{Snapshot: versions[0]}
	for i, version := range versions {
		lock.Packages = append(lock.Packages,
			debian.Package{Name: fmt.Sprint("p", i), Version: version, Architecture: "amd64"},
			debian.Package{Name: fmt.Sprint("p", i), Version: version, Architecture: "arm64"})
	}
	return lock
}

func TestImageGetsNewestPackagesWhenALockedOneIsGone(t *testing.T) {
	locked, newest := lockOf("1", "1"), lockOf("1", "2")
	for _, tc := range []struct {
		title   string
		mirror  mirror
		want    debian.Lock
		wantErr error
		warning string
	}{
		{"all are there", mirror{has: []string{"p0 1", "p1 1"}}, locked, nil, ""},
		{
			"one is gone", mirror{[]string{"p0 1", "p1 2"}, debian.ErrUnavailable, newest, nil},
			newest, nil, "p1 1",
		},
		{
			"nothing can be reached", mirror{failure: debian.ErrUnavailable},
			locked, debian.ErrUnavailable, "p0 1",
		},
		{"the disk is full", mirror{failure: os.ErrInvalid, newest: newest}, locked, os.ErrInvalid, ""},
	} {
		var warnings []string
		warn := func(format string, args ...any) {
			warnings = append(warnings, fmt.Sprintf(format, args...))
		}
		base := Base{Lock: locked, Description: debian.Description{
			Suite: "s", Architectures: []string{"amd64", "arm64"},
		}}
		got, err := base.orNewest(t.Context(), "arm64", warn, tc.mirror.repository())
		if !errors.Is(err, tc.wantErr) {
			t.Errorf("%s: %v, want %v", tc.title, err, tc.wantErr)
		}
		if !slices.Equal(got.Lock.Packages, tc.want.Packages) {
			t.Errorf("%s: packages %v, want %v", tc.title, got.Lock.Packages, tc.want.Packages)
		}
		text := strings.Join(warnings, "\n")
		if (tc.warning == "") != (text == "") || !strings.Contains(text, tc.warning) {
			t.Errorf("%s: warning %q, want one of %q", tc.title, text, tc.warning)
		}
		if tc.warning != "" && !strings.Contains(text, "make base") {
			t.Errorf("%s: the warning has no remedy: %q", tc.title, text)
		}
		for _, asked := range tc.mirror.asked {
			if asked.Suite != "s" || !slices.Equal(asked.Architectures, []string{"arm64"}) {
				t.Errorf("%s: the newest packages of %+v were asked for", tc.title, asked)
			}
		}
	}
}
