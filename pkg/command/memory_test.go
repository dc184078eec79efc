package command

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimitIsThatOfTheControlGroup(t *testing.T) {
	for _, c := range []struct {
		name, membership, file, text string
		want                         int64
	}{
		{"v2", "0::/kubepods/pod1\n", "kubepods/pod1/memory.max", "268435456\n", 268435456},
		{"v2 in a container", "0::/../pod1\n", "memory.max", "268435456\n", 268435456},
		{"v2 without a limit", "0::/a\n", "a/memory.max", "max\n", 0},
		{"v1", "8:pids:/\n4:memory:/kubepods/pod1\n", "memory/kubepods/pod1/memory.limit_in_bytes", "1024\n", 1024},
		{"v1 in a container", "4:memory:/kubepods/pod1\n", "memory/memory.limit_in_bytes", "1024\n", 1024},
		{"hybrid", "4:memory:/a\n0::/a\n", "memory/a/memory.limit_in_bytes", "1024\n", 1024},
		{"none", "0::/a\n", "a/cpu.max", "1024\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, c.file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			membership := filepath.Join(t.TempDir(), "cgroup")
			for path, text := range map[string]string{file: c.text, membership: c.membership} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := groupMemory(root, membership); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
