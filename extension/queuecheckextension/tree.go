// SPDX-License-Identifier: Apache-2.0

package queuecheckextension

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file reads bbolt's format without bbolt, which on a damaged file faults, panics in
// goroutines of its own or follows a cycle for ever. All of it is plain reads from a
// file: nothing is mapped, and every page is visited once.

const (
	pageHeaderSize = 16 // id (8), flags (2), count (2), overflow (4)
	elementSize    = 16
	metaSize       = 64
	minPageSize    = 512
	maxPageSize    = 64 << 10

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketEntry = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2

	noFreelist = ^uint64(0)
)

// storageBucket is the bucket in which file_storage keeps its entries.
var storageBucket = []byte("default")

var errNoMeta = errors.New("neither meta page is valid")

// meta is what one of the two meta pages says.
type meta struct {
	pageSize, root, freelist, end, transaction uint64
}

// tree is a file that is checked.
type tree struct {
	file io.ReaderAt
	size uint64
	meta
	visited map[uint64]bool // pages that are in use
	free    []uint64        // pages that are listed as free
}

// checkTree reads every page in use of a bbolt file and returns what makes an entry, or the
// file, unreadable. Free pages and a meta page that the other one replaces do not.
func checkTree(file io.ReaderAt, size int64) error {
	m, err := newestMeta(file)
	if err != nil {
		return err
	}
	t := &tree{file: file, size: uint64(size), meta: m, visited: map[uint64]bool{}}
	if t.size < 2*t.pageSize {
		return fmt.Errorf("%d bytes are less than two pages", size)
	}
	t.visited[0], t.visited[1] = true, true
	if err := t.checkFreelist(); err != nil {
		return err
	}
	if err := t.checkPage(t.root, keyRange{}, true); err != nil {
		return err
	}
	return t.checkFreePages()
}

// newestMeta finds the meta page that bbolt will use: the newer one of those that keep to
// their checksums. The second one's place depends on the page size, which a damaged first
// one does not tell.
func newestMeta(file io.ReaderAt) (newest meta, err error) {
	found := false
	consider := func(at, pageSize uint64) {
		m, ok := readMeta(file, at)
		if ok && (pageSize == 0 || m.pageSize == pageSize) && (!found || m.transaction > newest.transaction) {
			newest, found = m, true
		}
	}
	consider(0, 0)
	if found {
		consider(newest.pageSize, newest.pageSize)
		return newest, nil
	}
	for pageSize := uint64(minPageSize); pageSize <= maxPageSize && !found; pageSize *= 2 {
		consider(pageSize, pageSize)
	}
	if !found {
		return newest, errNoMeta
	}
	return newest, nil
}

func readMeta(file io.ReaderAt, at uint64) (m meta, ok bool) {
	raw := make([]byte, pageHeaderSize+metaSize)
	if _, err := file.ReadAt(raw, int64(at)); err != nil {
		return m, false
	}
	raw = raw[pageHeaderSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(raw[:metaSize-8])
	if u32(raw, 0) != metaMagic || u32(raw, 4) != metaVersion || u64(raw, metaSize-8) != sum.Sum64() {
		return m, false
	}
	m = meta{pageSize: uint64(u32(raw, 8)), root: u64(raw, 16), freelist: u64(raw, 32), end: u64(raw, 40), transaction: u64(raw, 48)}
	return m, m.pageSize >= minPageSize && m.pageSize <= maxPageSize
}

// page is one page, with those that it flows over to.
type page struct {
	id    uint64
	flags uint16
	count int
	raw   []byte
}

// readPage reads a page that is in use. A page that another one has used already is an
// error: this is what ends a cycle.
func (t *tree) readPage(id uint64) (*page, error) {
	if id < 2 || id >= t.end {
		return nil, fmt.Errorf("page %d is outside the file's %d pages", id, t.end)
	}
	if (id+1)*t.pageSize > t.size {
		return nil, fmt.Errorf("page %d is behind the file's end", id)
	}
	header := make([]byte, pageHeaderSize)
	if _, err := t.file.ReadAt(header, int64(id*t.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if named := u64(header, 0); named != id {
		return nil, fmt.Errorf("page %d names itself %d", id, named)
	}
	n := uint64(u32(header, 12)) + 1
	if id+n > t.end || (id+n)*t.pageSize > t.size {
		return nil, fmt.Errorf("page %d flows over the file's end", id)
	}
	for i := id; i < id+n; i++ {
		if t.visited[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		t.visited[i] = true
	}
	p := &page{id: id, flags: u16(header, 8), count: int(u16(header, 10)), raw: make([]byte, n*t.pageSize)}
	if _, err := t.file.ReadAt(p.raw, int64(id*t.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return p, nil
}

// keyRange bounds the keys of a page: from lowest, below limit; nil is no bound.
type keyRange struct{ lowest, limit []byte }

// checkPage checks a page of a bucket's tree and what is below it.
func (t *tree) checkPage(id uint64, within keyRange, top bool) error {
	p, err := t.readPage(id)
	if err != nil {
		return err
	}
	switch p.flags {
	case branchPage:
		return t.checkBranch(p, within, top)
	case leafPage:
		return t.checkLeaf(p.raw, p.count, within, fmt.Sprintf("page %d", p.id), top)
	}
	return fmt.Errorf("page %d has the type %#x, neither branch nor leaf", p.id, p.flags)
}

func (t *tree) checkBranch(p *page, within keyRange, top bool) error {
	where := fmt.Sprintf("page %d", p.id)
	if p.count == 0 {
		return fmt.Errorf("%s is a branch without elements", where)
	}
	keys, children := make([][]byte, p.count), make([]uint64, p.count)
	for i := range p.count {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(p.raw) {
			return fmt.Errorf("%s is too small for its %d elements", where, p.count)
		}
		key, err := part(p.raw, at, uint64(u32(p.raw, at)), uint64(u32(p.raw, at+4)))
		if err != nil {
			return fmt.Errorf("%s, element %d: %w", where, i, err)
		}
		keys[i], children[i] = key, u64(p.raw, at+8)
	}
	if err := inOrder(keys, within, where); err != nil {
		return err
	}
	for i, child := range children {
		below := keyRange{lowest: keys[i], limit: within.limit}
		if i+1 < len(keys) {
			below.limit = keys[i+1]
		}
		if err := t.checkPage(child, below, top); err != nil {
			return err
		}
	}
	return nil
}

// checkLeaf checks a leaf page, or the page that a small bucket has inside its parent's.
// top is the tree that holds the buckets themselves.
func (t *tree) checkLeaf(raw []byte, count int, within keyRange, where string, top bool) error {
	keys := make([][]byte, count)
	for i := range count {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(raw) {
			return fmt.Errorf("%s is too small for its %d elements", where, count)
		}
		position, keySize, valueSize := uint64(u32(raw, at+4)), uint64(u32(raw, at+8)), uint64(u32(raw, at+12))
		key, err := part(raw, at, position, keySize)
		if err != nil {
			return fmt.Errorf("%s, element %d: %w", where, i, err)
		}
		value, err := part(raw, at, position+keySize, valueSize)
		if err != nil {
			return fmt.Errorf("%s, element %d: %w", where, i, err)
		}
		keys[i] = key
		isBucket := u32(raw, at)&bucketEntry != 0
		if top && !isBucket && bytes.Equal(key, storageBucket) {
			return fmt.Errorf("%s: %q is not a bucket", where, key)
		}
		if !isBucket {
			continue
		}
		if err := t.checkBucket(value, fmt.Sprintf("%s, bucket %q", where, key)); err != nil {
			return err
		}
	}
	return inOrder(keys, within, where)
}

// checkBucket checks the tree of a bucket, whose entry names its root page (8) and a
// sequence (8). Without a root the page follows inside the entry.
func (t *tree) checkBucket(value []byte, where string) error {
	if len(value) < 16 {
		return fmt.Errorf("%s is too short", where)
	}
	if root := u64(value, 0); root != 0 {
		return t.checkPage(root, keyRange{}, false)
	}
	inside := value[16:]
	if len(inside) < pageHeaderSize || u16(inside, 8) != leafPage {
		return fmt.Errorf("%s has no page", where)
	}
	return t.checkLeaf(inside, int(u16(inside, 10)), keyRange{}, where, false)
}

// checkFreelist checks the list of free pages, if the file has one, which bbolt reads as
// it opens a file for writing.
func (t *tree) checkFreelist() error {
	if t.freelist == noFreelist {
		return nil
	}
	p, err := t.readPage(t.freelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if p.flags != freelistPage {
		return fmt.Errorf("list of free pages: page %d has the type %#x", p.id, p.flags)
	}
	count, at := uint64(p.count), pageHeaderSize
	if count == 0xFFFF { // the number follows as the first element
		count, at = u64(p.raw, at), at+8
	}
	if count > uint64(len(p.raw)-at)/8 {
		return fmt.Errorf("list of free pages: page %d is too small for its %d elements", p.id, count)
	}
	t.free = make([]uint64, count)
	for i := range t.free {
		t.free[i] = u64(p.raw, at+8*i)
	}
	return nil
}

// checkFreePages refuses a page that is both free and in use: the next write would destroy
// it.
func (t *tree) checkFreePages() error {
	seen := make(map[uint64]bool, len(t.free))
	for _, id := range t.free {
		if id < 2 || id >= t.end || t.visited[id] || seen[id] {
			return fmt.Errorf("list of free pages: page %d is in use, listed twice or outside the file", id)
		}
		seen[id] = true
	}
	return nil
}

// part is a piece of a page, at a distance from an element.
func part(raw []byte, at int, distance, size uint64) ([]byte, error) {
	begin := uint64(at) + distance
	if begin+size > uint64(len(raw)) {
		return nil, fmt.Errorf("key or value ends %d bytes behind the page", begin+size-uint64(len(raw)))
	}
	return raw[begin : begin+size], nil
}

// inOrder checks that keys rise and lie within a range.
func inOrder(keys [][]byte, within keyRange, where string) error {
	for i, key := range keys {
		switch {
		case i > 0 && bytes.Compare(keys[i-1], key) >= 0,
			i == 0 && within.lowest != nil && bytes.Compare(within.lowest, key) > 0,
			within.limit != nil && bytes.Compare(key, within.limit) >= 0:
			return fmt.Errorf("%s: key %d is out of order", where, i)
		}
	}
	return nil
}

func u16(raw []byte, at int) uint16 { return binary.NativeEndian.Uint16(raw[at:]) }
func u32(raw []byte, at int) uint32 { return binary.NativeEndian.Uint32(raw[at:]) }
func u64(raw []byte, at int) uint64 { return binary.NativeEndian.Uint64(raw[at:]) }
