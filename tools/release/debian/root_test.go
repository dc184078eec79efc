package debian

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packages builds .deb files into a cache, so that nothing is downloaded, and returns their lock.
func packages(t *testing.T, cache string, contents map[string]map[string]string) Lock {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("needs dpkg-deb")
	}
	lock := Lock{Suite: "test", Snapshot: "20261129T000000Z"}
	for name, files := range contents {
		folder := t.TempDir()
		files["DEBIAN/control"] = "Package: " + name + "\nVersion: 1\nArchitecture: amd64\n" +
			"Maintainer: nobody\nDescription: for a test\n"
		files["usr/share/doc/"+name+"/copyright"] = "of " + name
		for path, content := range files {
			path = filepath.Join(folder, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if target, ok := strings.CutPrefix(content, "-> "); ok {
				err = os.Symlink(target, path)
			} else {
				err = os.WriteFile(path, []byte(content), 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		deb := filepath.Join(cache, name)
		out, err := exec.CommandContext(t.Context(),
			"dpkg-deb", "--root-owner-group", "--build", folder, deb).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg-deb: %v: %s", err, out)
		}
		built, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(deb, filepath.Join(cache, sum(built)+".deb")); err != nil {
			t.Fatal(err)
		}
		lock.Packages = append(lock.Packages,
			Package{Name: name, Architecture: "amd64", Version: "1", SHA256: sum(built)})
	}
	return lock
}

func TestRootHasWhatFilesNeedAndNothingElse(t *testing.T) {
	cache := t.TempDir()
	lock := packages(t, cache, map[string]map[string]string{
		"tools": {"sbin/check": "#!/bin/sh\n", "sbin/unused": "#!/bin/sh\n", "etc/tools.conf": "a"},
		"shell": {"bin/sh": "-> dash", "bin/dash": "the shell"},
	})
	description := Description{Files: []string{"/sbin/check", "/etc/tools.conf"}}
	files, err := Root(t.Context(), description, lock, "amd64", cache)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if !file.Mode.IsDir() && !slices.Contains([]string{"etc/group", "etc/passwd"}, file.Path) {
			names = append(names, file.Path)
		}
	}
	slices.Sort(names)
	want := []string{
		"bin", "etc/tools.conf", "lib", "sbin", "usr/bin/dash", "usr/bin/sh", "usr/sbin/check",
		"usr/share/doc/shell/copyright", "usr/share/doc/tools/copyright",
		"var/lib/dpkg/status.d/shell", "var/lib/dpkg/status.d/tools",
	}
	if !slices.Equal(names, want) {
		t.Errorf("files:\n%q\nwant:\n%q", names, want)
	}
}

func TestRootSaysWhatIsMissingOrUseless(t *testing.T) {
	cache := t.TempDir()
	lock := packages(t, cache, map[string]map[string]string{
		"tools": {"sbin/check": "#!/bin/sh\n"},
		"other": {"bin/other": "x"},
		"shell": {"bin/sh": "x"},
	})
	for wanted, complaint := range map[string]string{
		"/sbin/absent": "no package has /usr/sbin/absent",
		"/sbin/check":  "nothing in the image needs package other",
	} {
		_, err := Root(t.Context(), Description{Files: []string{wanted}}, lock, "amd64", cache)
		if err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v, want: %s", wanted, err, complaint)
		}
	}
}

func TestRecordsOfApt(t *testing.T) {
	hash := strings.Repeat("a", 64)
	got, err := parseRecords([]byte("Package: e2fsprogs\nSource: e2fsprogs (1.47.0-2)\n" +
		"Version: 1.47.0-2+b2\nArchitecture: arm64\nDescription: tools\n of ext4\n" +
		"Filename: pool/main/e/e.deb\nSize: 544188\nSHA256: " + hash + "\n\n" +
		"Package: libc6\nSource: glibc\nVersion: 2.36-9\nArchitecture: arm64\n" +
		"Filename: pool/updates/main/g/g.deb\nSize: 1\nSHA256: " + hash + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{"e2fsprogs", "arm64", "1.47.0-2+b2", "e2fsprogs", "1.47.0-2", "pool/main/e/e.deb", 544188, hash},
		{"libc6", "arm64", "2.36-9", "glibc", "2.36-9", "pool/updates/main/g/g.deb", 1, hash},
	}
	if !slices.Equal(got, want) {
		t.Errorf("packages:\n%+v\nwant:\n%+v", got, want)
	}
	lock := Lock{Snapshot: "20261129T000000Z"}
	if url := lock.URL(got[1]); url !=
		"http://snapshot.debian.org/archive/debian-security/20261129T000000Z/pool/updates/main/g/g.deb" {
		t.Errorf("a security update is at %s", url)
	}
}
