package main

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/binary"
	"io"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// packIndex is the index of a pack (gitformat-pack(5), version 2). go-git's takes three times the
// memory.
type packIndex struct {
	objects []packObject // sorted by their hashes
	pack    plumbing.Hash
}

// newPackIndex sorts the objects. One that the pack has twice is there once.
func newPackIndex(objects []packObject, pack plumbing.Hash) *packIndex {
	slices.SortStableFunc(objects, func(a, b packObject) int { return compareHashes(a.hash, b.hash) })
	objects = slices.CompactFunc(objects, func(a, b packObject) bool { return a.hash == b.hash })
	return &packIndex{objects: objects, pack: pack}
}

func (x *packIndex) write(to io.Writer) error {
	sum := sha1.New() //nolint:gosec // as said
	w := bufio.NewWriter(io.MultiWriter(to, sum))
	var word [8]byte
	put := func(value uint32) { _, _ = w.Write(binary.BigEndian.AppendUint32(word[:0], value)) }
	_, _ = w.WriteString("\xfftOc\x00\x00\x00\x02") // the writer keeps its error for Flush
	i := 0
	for first := range 256 {
		for i < len(x.objects) && int(x.objects[i].hash[0]) <= first {
			i++
		}
		put(uint32(i))
	}
	for _, o := range x.objects {
		_, _ = w.Write(o.hash[:])
	}
	for _, o := range x.objects {
		put(o.crc)
	}
	const isLong = 1 << 31
	var long []int64
	for _, o := range x.objects {
		if o.at < isLong {
			put(uint32(o.at)) //nolint:gosec // as compared
			continue
		}
		put(isLong | uint32(len(long))) //nolint:gosec // fewer than there are objects
		long = append(long, o.at)
	}
	for _, at := range long {
		_, _ = w.Write(binary.BigEndian.AppendUint64(word[:0], uint64(at))) //nolint:gosec // not negative
	}
	_, _ = w.Write(x.pack[:])
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(sum.Sum(nil))
	return err
}
