//! RocksDB through its C interface, of which a dozen functions are enough.

#![cfg(feature = "rocksdb")]

use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
use std::path::Path;
use std::ptr;

use crate::engines::{CACHE, Engine, Op};

type Handle = *mut c_void;

#[link(name = "rocksdb")]
unsafe extern "C" {
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_set_create_if_missing(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_options_increase_parallelism(options: Handle, threads: c_int);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, table: Handle);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_set_block_cache(table: Handle, cache: Handle);
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_open(options: Handle, path: *const c_char, error: *mut *mut c_char) -> Handle;
    fn rocksdb_close(db: Handle);
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_set_sync(options: Handle, yes: c_uchar);
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_destroy(batch: Handle);
    fn rocksdb_writebatch_put(b: Handle, k: *const u8, kn: usize, v: *const u8, vn: usize);
    fn rocksdb_writebatch_singledelete(batch: Handle, key: *const u8, len: usize);
    fn rocksdb_write(db: Handle, options: Handle, batch: Handle, error: *mut *mut c_char);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_destroy(iterator: Handle);
    fn rocksdb_iter_seek(iterator: Handle, key: *const u8, len: usize);
    fn rocksdb_iter_valid(iterator: Handle) -> c_uchar;
    fn rocksdb_iter_next(iterator: Handle);
    fn rocksdb_iter_key(iterator: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_iter_value(iterator: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_compact_range(db: Handle, s: *const u8, sn: usize, e: *const u8, en: usize);
}

pub struct Rocks {
    db: Handle,
    write: Handle,
    read: Handle,
}

fn check(error: *mut c_char) {
    // SAFETY: RocksDB gives null or a C string.
    assert!(error.is_null(), "{:?}", unsafe { CStr::from_ptr(error) });
}

impl Rocks {
    pub fn open(path: &Path) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut error = ptr::null_mut();
        // SAFETY: the handles are RocksDB's own and live as long as the process.
        unsafe {
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_compression(options, 0);
            rocksdb_options_increase_parallelism(options, 2);
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_block_cache(table, rocksdb_cache_create_lru(CACHE));
            rocksdb_options_set_block_based_table_factory(options, table);
            let db = rocksdb_open(options, path.as_ptr(), &mut error);
            check(error);
            let write = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(write, 1);
            Self { db, write, read: rocksdb_readoptions_create() }
        }
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // SAFETY: it is open, and used no more.
        unsafe { rocksdb_close(self.db) };
    }
}

impl Engine for Rocks {
    fn commit(&mut self, ops: Vec<Op>) {
        let mut error = ptr::null_mut();
        // SAFETY: pointers and lengths are those of live slices, which RocksDB copies.
        unsafe {
            let batch = rocksdb_writebatch_create();
            for op in &ops {
                match op {
                    Op::Put(key, value) => rocksdb_writebatch_put(
                        batch,
                        key.as_ptr(),
                        key.len(),
                        value.as_ptr(),
                        value.len(),
                    ),
                    Op::Remove(key) => {
                        rocksdb_writebatch_singledelete(batch, key.as_ptr(), key.len());
                    }
                }
            }
            rocksdb_write(self.db, self.write, batch, &mut error);
            rocksdb_writebatch_destroy(batch);
        }
        check(error);
    }

    fn scan(&mut self, prefix: &[u8], limit: usize, each: &mut dyn FnMut(&[u8])) {
        // SAFETY: keys and values are valid until the iterator moves.
        unsafe {
            let iterator = rocksdb_create_iterator(self.db, self.read);
            rocksdb_iter_seek(iterator, prefix.as_ptr(), prefix.len());
            for _ in 0..limit {
                if rocksdb_iter_valid(iterator) == 0 {
                    break;
                }
                let (mut key_len, mut value_len) = (0, 0);
                let key = rocksdb_iter_key(iterator, &mut key_len);
                let key = std::slice::from_raw_parts(key, key_len);
                if !key.starts_with(prefix) {
                    break;
                }
                std::hint::black_box(rocksdb_iter_value(iterator, &mut value_len));
                each(key);
                rocksdb_iter_next(iterator);
            }
            rocksdb_iter_destroy(iterator);
        }
    }

    fn compact(&mut self) {
        // SAFETY: null is the beginning and the end.
        unsafe { rocksdb_compact_range(self.db, ptr::null(), 0, ptr::null(), 0) };
    }
}
