//! What each XFS file system counts: `sys/fs/xfs/<device>/stats/stats`.
//!
//! <https://docs.kernel.org/admin-guide/xfs.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "xfs",
    default: true,
    help: "Operations of XFS file systems.",
    queries: &[Query::Xfs],
    optional: &[],
    flags: &[],
    families: || NUMBERS.iter().map(|(.., family)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

const STATS: &str = "sys/fs/xfs/*/stats/stats";

/// Label of the line, column after it, family.
type Number = (&'static [u8], usize, Family);

#[rustfmt::skip]
const NUMBERS: [Number; 39] = [
    number(b"extent_alloc", 0, "node_xfs_extent_allocation_extents_allocated_total",  "Extents that the file system has allocated."),
    number(b"extent_alloc", 1, "node_xfs_extent_allocation_blocks_allocated_total",   "Blocks that the file system has allocated."),
    number(b"extent_alloc", 2, "node_xfs_extent_allocation_extents_freed_total",      "Extents that the file system has freed."),
    number(b"extent_alloc", 3, "node_xfs_extent_allocation_blocks_freed_total",       "Blocks that the file system has freed."),
    number(b"abt",          0, "node_xfs_allocation_btree_lookups_total",             "Searches in the trees of free space."),
    number(b"abt",          1, "node_xfs_allocation_btree_compares_total",            "Comparisons in the trees of free space."),
    number(b"abt",          2, "node_xfs_allocation_btree_records_inserted_total",    "Records put into the trees of free space."),
    number(b"abt",          3, "node_xfs_allocation_btree_records_deleted_total",     "Records taken out of the trees of free space."),
    number(b"blk_map",      0, "node_xfs_block_mapping_reads_total",                  "Mappings of a file's blocks that were read."),
    number(b"blk_map",      1, "node_xfs_block_mapping_writes_total",                 "Mappings of a file's blocks that were written."),
    number(b"blk_map",      2, "node_xfs_block_mapping_unmaps_total",                 "Mappings of a file's blocks that were removed."),
    number(b"blk_map",      3, "node_xfs_block_mapping_extent_list_insertions_total", "Extents put into the extent lists of files."),
    number(b"blk_map",      4, "node_xfs_block_mapping_extent_list_deletions_total",  "Extents taken out of the extent lists of files."),
    number(b"blk_map",      5, "node_xfs_block_mapping_extent_list_lookups_total",    "Searches in the extent lists of files."),
    number(b"blk_map",      6, "node_xfs_block_mapping_extent_list_compares_total",   "Comparisons in the extent lists of files."),
    number(b"bmbt",         0, "node_xfs_block_map_btree_lookups_total",              "Searches in the trees of block maps."),
    number(b"bmbt",         1, "node_xfs_block_map_btree_compares_total",             "Comparisons in the trees of block maps."),
    number(b"bmbt",         2, "node_xfs_block_map_btree_records_inserted_total",     "Records put into the trees of block maps."),
    number(b"bmbt",         3, "node_xfs_block_map_btree_records_deleted_total",      "Records taken out of the trees of block maps."),
    number(b"dir",          0, "node_xfs_directory_operation_lookup_total",           "Names looked up in directories because the kernel's cache of names lacked them."),
    number(b"dir",          1, "node_xfs_directory_operation_create_total",           "Entries made in directories."),
    number(b"dir",          2, "node_xfs_directory_operation_remove_total",           "Entries removed from directories."),
    number(b"dir",          3, "node_xfs_directory_operation_getdents_total",         "Times that a directory was listed."),
    number(b"ig",           0, "node_xfs_inode_operation_attempts_total",             "Searches for an inode in the file system's cache."),
    number(b"ig",           1, "node_xfs_inode_operation_found_total",                "Searches for an inode that found it in the cache."),
    number(b"ig",           2, "node_xfs_inode_operation_recycled_total",             "Searches for an inode that found it in the cache and about to be recycled."),
    number(b"ig",           3, "node_xfs_inode_operation_missed_total",               "Searches for an inode that did not find it in the cache."),
    number(b"ig",           4, "node_xfs_inode_operation_duplicates_total",           "Inodes that another thread had put into the cache in the meantime."),
    number(b"ig",           5, "node_xfs_inode_operation_reclaims_total",             "Inodes that were dropped from the cache to make room."),
    number(b"ig",           6, "node_xfs_inode_operation_attribute_changes_total",    "Times that attributes of an inode were changed."),
    number(b"rw",           0, "node_xfs_write_calls_total",                          "Calls of write on files."),
    number(b"rw",           1, "node_xfs_read_calls_total",                           "Calls of read on files."),
    number(b"vnodes",       0, "node_xfs_vnode_active_total",                         "Vnodes that are not on a free list."),
    number(b"vnodes",       1, "node_xfs_vnode_allocate_total",                       "Times that a vnode was allocated."),
    number(b"vnodes",       2, "node_xfs_vnode_get_total",                            "Times that a vnode was got."),
    number(b"vnodes",       3, "node_xfs_vnode_hold_total",                           "Times that a vnode was held."),
    number(b"vnodes",       4, "node_xfs_vnode_release_total",                        "Times that a vnode was released."),
    number(b"vnodes",       5, "node_xfs_vnode_reclaim_total",                        "Times that a vnode was reclaimed."),
    number(b"vnodes",       6, "node_xfs_vnode_remove_total",                         "Times that a vnode was removed."),
];

const fn number(line: &'static [u8], column: usize, name: &'static str, help: &'static str) -> Number {
    (line, column, Family::counter(name, help, &["device"], Source::File(STATS)))
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for device in context.snapshot.dir("sys/fs/xfs").dirs() {
        out.item();
        let Some(stats) = device.text("stats/stats") else { continue };
        for (label, numbers) in out.rows(STATS, stats).into_iter().filter_map(text::labelled) {
            for (_, column, family) in NUMBERS.iter().filter(|(of, ..)| *of == label) {
                match numbers.get(*column) {
                    Some(Some(value)) => out.add(family, &[device.name()], *value),
                    Some(None) => {
                        out.skip(|| format!("{}: column {column} of {}", STATS, label.escape_ascii()))
                    }
                    None => {}
                }
            }
        }
    }
    // That no such file system is mounted is no failure.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const PATH: &str = "sys/fs/xfs/sda1/stats/stats";
    const STATS: &[u8] = b"extent_alloc 1 872 3 4\nabt 5 6 7 8\nblk_map 61 29 1 2 3 91 4\nbmbt 9 10 11 12\n\
        dir 3 2 1 52\ntrans 4 40 0\nig 5 1 0 4 2 3 6\nlog 8 21 0 5821 4\npush_ail 44 0 1102 15 0 2 0 2 0 2\n\
        xstrat 1 0\nrw 28 27\nattr 0 0 0 0\nicluster 2 2 2\nvnodes 4 0 8 0 1 2 3 0\nbuf 22 25 14 0 0 8 0 8 8\n\
        abtb2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0\nqm 0 0 0 0 0 0 0 0\nxpc 3571712 3568056 0\ndebug 0\n";

    fn xfs(text: &[u8]) -> String {
        collect(&COLLECTOR, &[(PATH, text)], &[])
            .unwrap()
            .replace("node_xfs_", "")
            .replace("{device=\"sda1\"}", "")
    }

    #[test]
    fn each_number_has_the_name_of_its_position() {
        assert_eq!(
            xfs(STATS),
            "allocation_btree_compares_total 6\nallocation_btree_lookups_total 5\n\
             allocation_btree_records_deleted_total 8\nallocation_btree_records_inserted_total 7\n\
             block_map_btree_compares_total 10\nblock_map_btree_lookups_total 9\n\
             block_map_btree_records_deleted_total 12\nblock_map_btree_records_inserted_total 11\n\
             block_mapping_extent_list_compares_total 4\nblock_mapping_extent_list_deletions_total 3\n\
             block_mapping_extent_list_insertions_total 2\nblock_mapping_extent_list_lookups_total 91\n\
             block_mapping_reads_total 61\nblock_mapping_unmaps_total 1\nblock_mapping_writes_total 29\n\
             directory_operation_create_total 2\ndirectory_operation_getdents_total 52\n\
             directory_operation_lookup_total 3\ndirectory_operation_remove_total 1\n\
             extent_allocation_blocks_allocated_total 872\nextent_allocation_blocks_freed_total 4\n\
             extent_allocation_extents_allocated_total 1\nextent_allocation_extents_freed_total 3\n\
             inode_operation_attempts_total 5\ninode_operation_attribute_changes_total 6\n\
             inode_operation_duplicates_total 2\ninode_operation_found_total 1\ninode_operation_missed_total 4\n\
             inode_operation_reclaims_total 3\ninode_operation_recycled_total 0\nread_calls_total 27\n\
             vnode_active_total 4\nvnode_allocate_total 0\nvnode_get_total 8\nvnode_hold_total 0\n\
             vnode_reclaim_total 2\nvnode_release_total 1\nvnode_remove_total 3\nwrite_calls_total 28\n"
        );
    }

    #[test]
    fn missing_and_new_lines_and_columns_are_harmless() {
        assert_eq!(xfs(b"rw 1 2 3\ngc xpc 1\nshiny 4\ndir\n"), "read_calls_total 2\nwrite_calls_total 1\n");
    }

    #[test]
    fn only_a_malformed_number_is_skipped() {
        assert_eq!(xfs(b"rw -1 2\n\xff\n"), "read_calls_total 2\n");
    }

    #[test]
    fn each_file_system_has_its_own_series_even_if_its_device_has_an_odd_name() {
        let text = collect(
            &COLLECTOR,
            &[("sys/fs/xfs/dm-0/stats/stats", b"rw 1"), ("sys/fs/xfs/a\"b:)/stats/stats", b"rw 2")],
            &[],
        );
        assert_eq!(
            text.unwrap(),
            "node_xfs_write_calls_total{device=\"a\\\"b:)\"} 2\nnode_xfs_write_calls_total{device=\"dm-0\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_xfs_has_no_data() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
