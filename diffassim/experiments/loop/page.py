def write_page(files, experiment, config):
    return ""
