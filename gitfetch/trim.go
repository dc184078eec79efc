package main

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// repositoryCache is the cache of one repository.
type repositoryCache struct {
	dir   string
	bytes int64
	used  time.Time // last
}

// trim removes the repositories that were not used for the longest time until the cache has at most
// limit bytes. A repository of which a fetch runs stays.
func trim(cache string, limit int64) error {
	repositories, err := listCache(cache)
	if err != nil {
		return err
	}
	var total int64
	for _, r := range repositories {
		total += r.bytes
	}
	slices.SortFunc(repositories, func(a, b repositoryCache) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.dir, b.dir))
	})
	for _, r := range repositories {
		if total <= limit {
			break
		}
		lock, err := tryLock(r.dir)
		if err != nil {
			return err
		}
		if lock == nil {
			continue
		}
		err = os.RemoveAll(r.dir)
		lock.Close()
		if err != nil {
			return err
		}
		total -= r.bytes
	}
	return nil
}

func listCache(cache string) ([]repositoryCache, error) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return nil, err
	}
	var repositories []repositoryCache
	for _, e := range entries {
		r := repositoryCache{dir: filepath.Join(cache, e.Name())}
		if info, err := e.Info(); err == nil {
			r.used = info.ModTime()
		}
		// Files come and go while a fetch runs.
		_ = filepath.WalkDir(r.dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // as said
			}
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
				r.bytes += info.Size()
			}
			return nil
		})
		repositories = append(repositories, r)
	}
	return repositories, nil
}
