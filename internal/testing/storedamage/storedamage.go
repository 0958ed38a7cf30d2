// SPDX-License-Identifier: Apache-2.0

// Package storedamage damages files of the file_storage extension (bbolt) as full disks,
// torn writes and bad copies do. It reads their pages by itself, with nothing of the
// product.
package storedamage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
)

// Kind is one kind of damage.
type Kind struct {
	Name  string
	Apply func(path string) error
}

// Kinds are the six kinds that make the entries unreadable.
var Kinds = []Kind{
	{"emptied", func(path string) error { return os.Truncate(path, 0) }},
	{"cut_at_half", func(path string) error { return change(path, (*File).cutAtHalf) }},
	{"cut_in_last_page", func(path string) error { return change(path, (*File).cutInLastPage) }},
	{"leaf_zeroed", func(path string) error { return change(path, (*File).zeroLeaf) }},
	{"both_metas_flipped", func(path string) error { return change(path, (*File).flipBothMetas) }},
	{"text", func(path string) error {
		return os.WriteFile(path, slices.Repeat([]byte("This file is a text.\n"), 1000), 0o600)
	}},
}

// Harmless are the kinds that leave the entries readable.
var Harmless = []Kind{
	{"free_pages_overwritten", func(path string) error { return change(path, (*File).overwriteFreePages) }},
	{"newest_meta_flipped", func(path string) error { return change(path, (*File).flipNewestMeta) }},
}

func change(path string, how func(*File) error) error {
	f, err := Read(path)
	if err != nil {
		return err
	}
	if err := how(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, f.Raw, 0o600)
}

// bbolt's layout: a page header is id (8), flags (2), count (2), overflow (4).
const (
	pageHeader = 16
	branch     = 1
	leaf       = 2
)

// File is a whole store file.
type File struct {
	Raw      []byte
	PageSize int
}

// Read reads a whole store file.
func Read(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(raw) < 2*4096 {
		return nil, fmt.Errorf("%s has %d bytes: it is not a store", path, len(raw))
	}
	return &File{Raw: raw, PageSize: int(binary.NativeEndian.Uint32(raw[pageHeader+8:]))}, nil
}

func (f *File) u64(at int) int { return int(binary.NativeEndian.Uint64(f.Raw[at:])) }
func (f *File) u32(at int) int { return int(binary.NativeEndian.Uint32(f.Raw[at:])) }
func (f *File) u16(at int) int { return int(binary.NativeEndian.Uint16(f.Raw[at:])) }

// valid reports whether a meta page keeps to its checksum.
func (f *File) valid(page int) bool {
	at := page*f.PageSize + pageHeader
	sum := fnv.New64a()
	_, _ = sum.Write(f.Raw[at : at+56])
	return sum.Sum64() == binary.NativeEndian.Uint64(f.Raw[at+56:])
}

// NewestMeta is the page of the newest whole meta, 0 or 1, and its transaction.
func (f *File) NewestMeta() (page, transaction int) {
	transaction = -1
	for p := range 2 {
		if tx := f.u64(p*f.PageSize + pageHeader + 48); f.valid(p) && tx > transaction {
			page, transaction = p, tx
		}
	}
	return page, transaction
}

// Used lists the pages that the newest meta reaches, and the leaves among them.
func (f *File) Used() (used map[int]bool, leaves []int) {
	used = map[int]bool{0: true, 1: true}
	meta, _ := f.NewestMeta()
	f.walk(f.u64(meta*f.PageSize+pageHeader+16), used, &leaves)
	return used, leaves
}

func (f *File) walk(page int, used map[int]bool, leaves *[]int) {
	at := page * f.PageSize
	for i := range f.u32(at+12) + 1 {
		used[page+i] = true
	}
	if f.u16(at+8) == leaf {
		*leaves = append(*leaves, page)
	}
	for i := range f.u16(at + 10) {
		element := at + pageHeader + 16*i
		switch {
		case f.u16(at+8) == branch:
			f.walk(f.u64(element+8), used, leaves)
		case f.u32(element) == 1: // a bucket
			if root := f.u64(element + f.u32(element+4) + f.u32(element+8)); root != 0 {
				f.walk(root, used, leaves)
			}
		}
	}
}

func (f *File) end() int {
	used, _ := f.Used()
	last := 0
	for p := range used {
		last = max(last, p)
	}
	return last + 1
}

func (f *File) cutAtHalf() error {
	f.Raw = f.Raw[:f.end()/2*f.PageSize]
	return nil
}

func (f *File) cutInLastPage() error {
	f.Raw = f.Raw[:f.end()*f.PageSize-f.PageSize/2]
	return nil
}

func (f *File) zeroLeaf() error {
	_, leaves := f.Used()
	at := leaves[len(leaves)-1] * f.PageSize // the root's own leaf is the first
	clear(f.Raw[at : at+f.PageSize])
	return nil
}

func (f *File) flip(page int) { f.Raw[page*f.PageSize+pageHeader+20] ^= 0x10 }

func (f *File) flipBothMetas() error {
	f.flip(0)
	f.flip(1)
	return nil
}

func (f *File) flipNewestMeta() error {
	page, _ := f.NewestMeta()
	f.flip(page)
	return nil
}

func (f *File) overwriteFreePages() error {
	used, _ := f.Used()
	n := 0
	for p := 2; p < len(f.Raw)/f.PageSize; p++ {
		if !used[p] {
			for i := range f.PageSize {
				f.Raw[p*f.PageSize+i] = 0xa5
			}
			n++
		}
	}
	if n == 0 {
		return errors.New("no page is free")
	}
	return nil
}
