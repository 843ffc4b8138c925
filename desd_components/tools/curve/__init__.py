"""The label curve: is a segmenter better when its encoder was pre-trained, and at how many labels?"""
